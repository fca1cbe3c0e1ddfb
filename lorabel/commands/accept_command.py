"""`lorabel accept` with its arguments and options. Imports nothing that takes long (`lorabel/commands/cli.py`)."""

from typing import Annotated

import typer


def accept(
    project: Annotated[int, typer.Argument(help="The project's id in Label Studio.")],
    precision: Annotated[float, typer.Option(help="The part of the accepted tasks that must be right.")] = 0.98,
    confidence: Annotated[float, typer.Option(help="The least probability of that.")] = 0.95,
    together: Annotated[bool, typer.Option(help="One promise about all labels, not one for each.")] = False,
    write: Annotated[
        bool, typer.Option(help="Write annotations; without it, show what would be accepted.")
    ] = False,
    user: Annotated[str | None, typer.Option(help="E-mail of the user whose annotations they become.")] = None,
    review: Annotated[
        bool, typer.Option(help="Write predictions, and a tab with a random sample of them for people to review.")
    ] = False,
    sample: Annotated[
        int, typer.Option(min=0, help="Tasks to review; 0: as many as prove the promise if none is wrong.")
    ] = 0,
    reviewed: Annotated[
        int | None, typer.Option(help="Say what people have found in the review of this acceptance.")
    ] = None,
    undo: Annotated[int | None, typer.Option(help="Take back what this acceptance has written.")] = None,
    last: Annotated[bool, typer.Option(help="Show the last acceptance instead.")] = False,
    detach: Annotated[bool, typer.Option(help="Do not wait for the end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Accept predictions without looking, where unseen cases prove that enough of them are right."""
    from lorabel.commands import accept as accepting

    if last:
        accepting.show_last(project, is_json=json)
    elif reviewed is not None:
        accepting.show_review(project, reviewed, is_json=json)
    elif undo is not None:
        accepting.undo(project, undo, is_detached=detach, is_json=json)
    elif write != (user is not None):
        raise typer.BadParameter("expected --write together with --user, whose annotations they become")
    elif review and write:
        raise typer.BadParameter("expected --review or --write: what is reviewed is not annotated yet")
    elif sample and not review:
        raise typer.BadParameter("--sample says how many tasks to review; expected it together with --review")
    elif not (0 < precision < 1 and 0 < confidence < 1):
        raise typer.BadParameter("expected --precision and --confidence between 0 and 1, such as 0.98 and 0.95")
    else:
        accepting.accept(
            project,
            precision,
            confidence,
            user,
            sample if review else None,
            is_together=together,
            is_detached=detach,
            is_json=json,
        )
