"""`lorabel accept`: a bulk run finds which predictions may be accepted, and a terminal shows what is proved."""

from dataclasses import asdict
from typing import Any

import typer

from lorabel.commands.bulk_runs import carry_out
from lorabel.commands.context import CommandContext, new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.commands.progress import report
from lorabel.curation.reviews import read_review
from lorabel.database import acceptances, projects
from lorabel.database.acceptance_records import acceptance_record, promise
from lorabel.database.acceptance_tables import AcceptedState
from lorabel.database.base_table import Json
from lorabel.database.tables import Acceptance, BulkRun, RunState
from lorabel.label_studio.access import require_api_access

COLUMNS = ("label", "score", "cases", "wrong", "tasks", "right, at least", "errors expected", "needed")


def accept(
    project_id: int,
    precision: float,
    confidence: float,
    user_email: str | None,
    review_size: int | None,
    *,
    is_together: bool,
    is_detached: bool,
    is_json: bool,
) -> None:
    """Queue a bulk run that finds what may be accepted, show it until it has ended, and print what it found.

    Args:
        user_email: of the user whose annotations the accepted predictions become; None: none is written.
        review_size: of the random sample to review, see `acceptances.request`; None: no predictions are written.

    Raises:
        Exit: as `lorabel.commands.bulk_runs.preannotate`.
    """
    with open_context(is_json=is_json) as context:
        _require_api_access(context, project_id)
        acceptance, run = acceptances.request(
            context.store,
            project_id,
            "lorabel accept",
            precision=precision,
            confidence=confidence,
            is_together=is_together,
            user_email=user_email,
            review_size=review_size,
        )
        _carry_out(context, acceptance, run, is_detached=is_detached, is_json=is_json)


def undo(project_id: int, acceptance_id: int, *, is_detached: bool, is_json: bool) -> None:
    """Queue a bulk run that takes back what an acceptance has written, and show what it left.

    Raises:
        Exit: as `lorabel.commands.bulk_runs.preannotate`.
    """
    with open_context(is_json=is_json) as context:
        _require_api_access(context, project_id)
        acceptance, run = acceptances.request_undo(
            context.store, project_id, acceptance_id, "lorabel accept --undo"
        )
        _carry_out(context, acceptance, run, is_detached=is_detached, is_json=is_json)


def show_last(project_id: int, *, is_json: bool) -> None:
    """Print the newest acceptance of a project. Starts nothing."""
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            projects.get(session, project_id)
            newest = next(iter(acceptances.list_of(session, project_id)), None)
        if newest is not None:
            _show(context, newest, is_json=is_json)
        elif is_json:
            print_json({"acceptance": None})
        else:
            context.console.print(f"nothing was accepted in project {project_id} yet")


def show_review(project_id: int, acceptance_id: int, *, is_json: bool) -> None:
    """Print what people say about the sample of an acceptance for review. Starts nothing."""
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            project = projects.get(session, project_id)
            acceptance = acceptances.get(session, project_id, acceptance_id)
            review = read_review(session, project, acceptance)
        if is_json:
            low, high = review.interval
            figures = {"estimate": review.estimate, "low": low, "high": high, "verdict": review.verdict}
            print_json({"review": {**asdict(review), **figures}})
        else:
            context.console.print(str(review), highlight=False, markup=False)


def _require_api_access(context: CommandContext, project_id: int) -> None:
    with context.store.read() as session:
        require_api_access(projects.get(session, project_id), context.settings)


def _carry_out(
    context: CommandContext, acceptance: Acceptance, run: BulkRun, *, is_detached: bool, is_json: bool
) -> None:
    run = carry_out(context, run, is_detached=is_detached)
    report(run, context.console)
    if run.state != RunState.FINISHED:
        raise typer.Exit(1)
    _show(context, acceptance, is_json=is_json)


def _show(context: CommandContext, acceptance: Acceptance, *, is_json: bool) -> None:
    with context.store.read() as session:
        project = projects.get(session, acceptance.project_id)
        acceptance = acceptances.get(session, acceptance.project_id, acceptance.id)
        counts = acceptances.count_states(session, acceptance.id)
        changed = acceptances.tasks_in(session, acceptance.id, AcceptedState.CHANGED)
    if is_json:
        print_json({"acceptance": acceptance_record(acceptance, counts)})
        return
    print_heading(context, project)
    if acceptance.labels is None:
        context.console.print(f"acceptance {acceptance.id} has found nothing yet")
        return
    context.console.print(new_table(COLUMNS, map(_row, acceptance.labels), wrapped=("label", "needed")))
    lines = [
        promise(acceptance),
        f"cases: {acceptance.cases_from}",
        *acceptance.warnings,
        *_outcome(acceptance, counts),
    ]
    lines += [f"left as it is, since somebody has changed it: task {row.task_id}" for row in changed]
    for line in lines:
        context.console.print(line, highlight=False, markup=False)


def _row(proof: Json) -> tuple[str, ...]:
    is_proved = proof["score"] is not None
    more = proof["reason"] if proof["needed"] is None else f"{proof['needed']} more cases: {proof['reason']}"
    return (
        proof["label"] or "all",
        f"{proof['score']:.3f}" if is_proved else "-",
        str(proof["cases"]),
        str(proof["errors"]),
        str(proof["tasks"]) if is_proved else "0",
        f"{proof['bound']:.3f}",
        f"{proof['expected_errors']:.1f}" if is_proved else "-",
        "" if is_proved else more,
    )


def _outcome(acceptance: Acceptance, counts: dict[str, int]) -> list[str]:
    if not acceptance.is_written and acceptance.review_size is None:
        return ["nothing was written; `--write --user EMAIL` writes"]
    said: list[tuple[Any, str]] = [
        (AcceptedState.WRITTEN, f"annotations of {acceptance.user_email} are in Label Studio"),
        (AcceptedState.SHOWN, f"predictions are in Label Studio for review, see the tab Review {acceptance.id}"),
        (AcceptedState.PLANNED, "are not written yet"),
        (AcceptedState.ANNOTATED, "were not written, since somebody had annotated the task meanwhile"),
        (AcceptedState.REMOVED, "were taken back"),
        (AcceptedState.CHANGED, "were left, since somebody has changed them"),
        (AcceptedState.GONE, "were gone already"),
    ]
    lines = [f"{counts[state]} {words}" for state, words in said if counts.get(state)]
    undo_with = f"`lorabel accept {acceptance.project_id} --undo {acceptance.id}` takes them back"
    if acceptance.review_size is not None and counts.get(AcceptedState.SHOWN):
        lines.append(
            f"`lorabel accept {acceptance.project_id} --reviewed {acceptance.id}` says what people have found"
        )
    is_there = counts.get(AcceptedState.WRITTEN) or counts.get(AcceptedState.SHOWN)
    return [*lines, *([undo_with] if is_there else [])]
