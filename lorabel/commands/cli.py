"""`lorabel`: the commands with their arguments and options.

`lorabel --help` must be quick. So a command imports what it does inside its function, and this module imports
nothing that takes long (`tests/lorabel/commands/test_cli_start.py` has the list of packages that it may import).
"""

import sys
from typing import Annotated

import typer

from lorabel.commands.accept_command import accept
from lorabel.commands.forget_command import forget
from lorabel.commands.keys_command import keys
from lorabel.commands.rules_command import groups, rules
from lorabel.curation.strategy import Strategy
from lorabel.errors import LorabelError

# Help is plain text, because rich would take two thirds of the time of `lorabel --help`. The group defines its own
# option --help with the default False: Typer's option has no default, and for it Typer imports pydantic (0.2 s).
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    add_help_option=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 110},
)
ProjectId = Annotated[int, typer.Argument(help="The project's id in Label Studio.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Detach = Annotated[bool, typer.Option(help="Do not wait for the end.")]


def main() -> None:
    """The entry point. An error of ours, or of the database, is printed as one line, without a traceback, and the
    exit status is 1."""
    try:
        app()
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        from rich.console import Console
        from rich.markup import escape

        Console(stderr=True).print(f"[red]error:[/red] {escape(reason)}", highlight=False, soft_wrap=True)
        sys.exit(1)


def _reason(error: Exception) -> str | None:
    """What to print about an error; None if it is a fault of ours, whose traceback is needed."""
    if isinstance(error, LorabelError):
        return str(error)
    # Imported here because SQLAlchemy takes long to import.
    from sqlalchemy.exc import DatabaseError, OperationalError

    from lorabel.database.store import reason_of

    # Their other subclasses mean that our statement was wrong.
    if isinstance(error, DatabaseError) and type(error) in (DatabaseError, OperationalError):
        return f"the database cannot be used: {reason_of(error)}"
    return None


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"lorabel {version('lorabel')}")
        raise typer.Exit


def _print_help(context: typer.Context, is_asked: bool) -> None:
    if is_asked:
        typer.echo(context.get_help())
        raise typer.Exit


@app.callback()
def lorabel(
    is_version_asked: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    is_help_asked: Annotated[
        bool, typer.Option("--help", callback=_print_help, is_eager=True, help="Show this message and exit.")
    ] = False,
) -> None:
    """Label Studio's backend."""


@app.command()
def up() -> None:
    """Start Redis, model server, backend and workers on this machine, until Ctrl-C."""
    from lorabel.startup import garbage_collector_paused

    with garbage_collector_paused():
        from rich.console import Console

        from lorabel.commands.context import load_settings
        from lorabel.commands.supervisor import run_until_stopped

    run_until_stopped(load_settings(), Console())


@app.command()
def demo(
    headless: Annotated[bool, typer.Option(help="Let a scripted annotator work, and print a table.")] = False,
) -> None:
    """Start the real Label Studio with all of Lorabel and pictures to label, until Ctrl-C."""
    from rich.console import Console

    from lorabel.commands.context import load_settings
    from lorabel.demo.run import run

    load_settings()
    raise typer.Exit(run(is_headless=headless, console=Console()))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date; `up` does this by itself."""
    from lorabel.commands.context import open_context

    with open_context() as context:
        context.console.print("the schema is up to date")


@app.command(name="fetch-model")
def fetch_model(
    family: Annotated[str, typer.Argument(help="A model family, for example text_encoder.")],
    folder: Annotated[str, typer.Argument(help="A new folder for the model.")],
    source: Annotated[
        str | None,
        typer.Option(help="hf-hub:owner/name; default: MODEL_<FAMILY>, or the default model."),
    ] = None,
) -> None:
    """Write a base model into a folder, for machines that reach no model hub."""
    from pathlib import Path

    from rich.console import Console

    from lorabel.commands import model_folder
    from lorabel.commands.context import load_settings

    model_folder.fetch_model(load_settings(), family, Path(folder), source, Console())


@app.command(name="convert-model")
def convert_model(
    source: Annotated[str, typer.Argument(help="Folder of a Whisper model in the format of CTranslate2.")],
    folder: Annotated[str, typer.Argument(help="A new folder for the model.")],
) -> None:
    """Write a speech model of faster-whisper as MODEL_SPEECH needs it."""
    from pathlib import Path

    from rich.console import Console

    from lorabel.commands import model_folder

    model_folder.convert_model(Path(source), Path(folder), Console())


@app.command()
def connect(
    project: Annotated[int, typer.Option(help="The project's id in Label Studio.")],
    label_studio_url: Annotated[
        str | None, typer.Option(help="Address of Label Studio; default: LABEL_STUDIO_URL.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="Personal access token or legacy token; default: LABEL_STUDIO_API_KEY, else a prompt."),
    ] = None,
    backend_url: Annotated[str | None, typer.Option(help="Our address as Label Studio sees it.")] = None,
    title: Annotated[
        str | None, typer.Option(help="The backend's name in Label Studio; default: Lorabel.")
    ] = None,
    new_secret: Annotated[bool, typer.Option("--new-secret", help="Replace the webhook's secret.")] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Connect it although nothing of its label config is served.")
    ] = False,
) -> None:
    """Connect a Label Studio project: backend, webhook, model version, and one prediction as proof."""
    from rich.console import Console

    from lorabel.commands import connect as connecting
    from lorabel.commands.context import load_settings
    from lorabel.commands.label_studio_login import named_address, named_token
    from lorabel.database.project_keys import LabelStudioId
    from lorabel.label_studio.address import checked_address

    console, settings = Console(), load_settings()
    address = named_address(settings, label_studio_url)
    connection = connecting.connect(
        settings,
        address,
        named_token(settings, api_key),
        LabelStudioId(project),
        backend_url=None if backend_url is None else checked_address(backend_url, "--backend-url"),
        title=title or connecting.TITLE,
        is_secret_new=new_secret,
        is_anyway=anyway,
        report=lambda step: connecting.print_step(step, console),
    )
    if not connection.is_complete:
        changed = "the changes above stay" if connection.is_changed else "nothing was changed"
        console.print(f"[red]not connected:[/red] see the failed step; {changed}")
        raise typer.Exit(1)
    state = "connected" if connection.is_changed else "connected already, nothing was changed"
    console.print(f"{state}; label its tasks at {address}/projects/{project}/data", soft_wrap=True)


@app.command()
def doctor(
    project: Annotated[int | None, typer.Option(help="Look at this project only.")] = None, json: AsJson = False
) -> None:
    """Check each part, and say how to correct what is wrong."""
    from rich.console import Console

    from lorabel.commands.checks import print_check
    from lorabel.commands.context import load_settings, print_json
    from lorabel.commands.doctor import examine

    console = Console()
    checks = examine(load_settings(), project)
    if json:
        print_json({"checks": checks})
    else:
        for check in checks:
            print_check(check, console)
    raise typer.Exit(0 if all(check.is_ok for check in checks) else 1)


@app.command()
def train(
    project: ProjectId,
    wait: Annotated[bool, typer.Option(help="Wait until the run has ended.")] = False,
) -> None:
    """Start a training run now."""
    from lorabel.commands import training

    training.train(project, is_waiting=wait)


@app.command()
def preannotate(
    project: ProjectId,
    only_unlabeled: Annotated[bool, typer.Option("--only-unlabeled/--all", help="Which tasks.")] = True,
    tasks: Annotated[str | None, typer.Option(help="These tasks by id, comma separated.")] = None,
    detach: Detach = False,
    cancel: Annotated[bool, typer.Option(help="Cancel the project's bulk runs instead.")] = False,
) -> None:
    """Predict a project's tasks in bulk and write the predictions back to Label Studio."""
    from lorabel.commands import bulk_runs

    if cancel:
        bulk_runs.cancel(project)
        return
    task_ids = None if tasks is None else _parse_task_ids(tasks)
    bulk_runs.preannotate(project, task_ids, only_unlabeled=only_unlabeled, is_detached=detach)


def _parse_task_ids(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} are no task ids; expected for example 1,2,3", param_hint="--tasks")
    return [int(part) for part in parts]


@app.command(name="label-errors")
def find_label_errors(
    project: ProjectId,
    limit: Annotated[int, typer.Option("--most", min=1, help="Most lines.")] = 50,
    detach: Detach = False,
    last: Annotated[bool, typer.Option(help="Show what the last run found instead.")] = False,
    json: AsJson = False,
) -> None:
    """Look for annotations that are probably wrong, and list them, the worst first."""
    from lorabel.commands import label_errors

    if last:
        label_errors.show_last(project, limit=limit, is_json=json)
        return
    label_errors.find_label_errors(project, limit=limit, is_detached=detach, is_json=json)


app.command()(accept)
app.command()(rules)
app.command()(groups)
app.command()(forget)
app.add_typer(
    keys,
    name="keys",
    help="Print a new key for stored tokens (new), or encrypt all of them with a new one (rotate).",
)


@app.command()
def order(
    project: ProjectId,
    strategy: Annotated[Strategy, typer.Option(help="What goes first.")] = Strategy.AUTO,
    detach: Detach = False,
) -> None:
    """Order a project's unlabeled tasks for Label Studio's stream: those that teach most come first."""
    from lorabel.commands import bulk_runs

    bulk_runs.order(project, strategy, is_detached=detach)


@app.command()
def search(
    project: ProjectId,
    text: Annotated[str | None, typer.Argument(help="What the tasks are to be like.")] = None,
    task: Annotated[int | None, typer.Option(help="Tasks like this one, by id.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 10,
    json: AsJson = False,
) -> None:
    """Show the tasks that are most like a text, or like another task."""
    if bool(text) == (task is not None):
        raise typer.BadParameter('expected a text or a task: `lorabel search 1 "red star"` or `--task 7`')
    from lorabel.commands import search as searching

    searching.search(project, text or "", task, limit=limit, is_json=json)


@app.command()
def index(project: ProjectId, detach: Detach = False) -> None:
    """Embed all tasks of a project now, instead of a part at each `lorabel search`."""
    from lorabel.commands import search as searching

    searching.index(project, is_detached=detach)


@app.command(name="versions")
def list_versions(project: ProjectId, json: AsJson = False) -> None:
    """List a project's model versions, newest first; the base models, v0, are the last."""
    from lorabel.commands import versions

    versions.list_versions(project, is_json=json)


@app.command()
def compare(
    v1: Annotated[str, typer.Argument(help="`p1.v3`.")],
    v2: Annotated[str, typer.Argument(help="`p1.v4`, `v4` or `4`; `v0` for the base models.")],
    json: AsJson = False,
) -> None:
    """Show two versions of a project beside each other, with the scores that each got."""
    from lorabel.commands import comparison

    comparison.compare(v1, v2, is_json=json)


@app.command()
def promote(
    project: ProjectId,
    version: Annotated[str, typer.Argument(help="`p1.v3`, `v3` or `3`.")],
    all_annotations: Annotated[
        bool,
        typer.Option(
            "--all-annotations",
            help="Have fitted heads learn from all annotations at once, also from those that have arrived since "
            "the version was made.",
        ),
    ] = False,
) -> None:
    """Make a version live for the next prediction."""
    from lorabel.commands import versions

    versions.promote(project, version, learns_from_all=all_annotations)


@app.command()
def rollback(project: ProjectId) -> None:
    """Make the live version's parent live again, for the next prediction."""
    from lorabel.commands import versions

    versions.rollback(project)


@app.command()
def status(json: AsJson = False) -> None:
    """Show every project with its title, its live version and its newest training run."""
    from lorabel.commands import training

    training.show_status(is_json=json)


@app.command()
def logs(
    project: ProjectId,
    limit: Annotated[int, typer.Option("--most", min=1, help="Most lines.")] = 50,
    json: AsJson = False,
) -> None:
    """Show why a project's runs began and how they ended, and what could not be read; newest first."""
    from lorabel.commands import project_log

    project_log.show_log(project, limit=limit, is_json=json)


if __name__ == "__main__":
    main()
