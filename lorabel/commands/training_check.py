"""The checks of `lorabel doctor` for what a project has learned.

They tell the outcome of its newest training run, what that skipped, and what fitted heads leave out.
"""

from collections.abc import Iterator

from sqlalchemy import select

from lorabel.commands.checks import Check
from lorabel.database import project_heads
from lorabel.database.store import Store
from lorabel.database.tables import Project, RunState, TrainingRun

MOST_SHOWN = 5


def training_checks(store: Store, project: Project) -> Iterator[Check]:
    """Examine the heads, if they leave out annotations, and the newest run that has ended, if one has.

    Skipped annotations are a fault only if nothing else was there to learn from: people may leave a task without
    an answer.
    """
    name = f"project {project.both_ids}: training"
    has_ended = TrainingRun.state.in_((RunState.FINISHED, RunState.FAILED))
    newest_first = select(TrainingRun).order_by(TrainingRun.id.desc()).limit(1)
    with store.read() as session:
        run = session.scalar(newest_first.where(TrainingRun.project_id == project.id, has_ended))
        left_out = project_heads.count_left_out(session, project)
    if left_out:
        yield Check(
            f"project {project.both_ids}: heads",
            True,
            f"{left_out} annotations are left out, since {project.live_version} was made live by hand; "
            f"`lorabel promote {project.id} {project.live_version} --all-annotations` has heads learn from them",
        )
    if run is None:
        return
    if run.state == RunState.FAILED:
        remedy = f"see the training worker's log; `lorabel train {project.id}` tries again"
        yield Check(name, False, f"run {run.id} failed: {run.error}", remedy)
        return
    skipped = _skipped(run)
    finding = f"run {run.id}: {run.decision}; {len(skipped)} annotations skipped"
    if skipped:
        shown = "; ".join(skipped[:MOST_SHOWN])
        hidden = len(skipped) - MOST_SHOWN
        finding += f" ({shown}{f'; and {hidden} more' if hidden > 0 else ''})"
    is_ok = run.version_number is not None or not skipped
    remedy = "mend these annotations or their media; a later run tries them again"
    yield Check(name, is_ok, finding, "" if is_ok else remedy)


def _skipped(run: TrainingRun) -> list[str]:
    """A text for each annotation that the run skipped, by control tag: what was skipped, and why."""
    skipped_by_tag = (run.metrics or {}).get("skipped", {})
    return [
        f"{tag!r} of annotation {annotation_id}: {reason}"
        for tag, reasons in skipped_by_tag.items()
        for annotation_id, reason in reasons.items()
    ]
