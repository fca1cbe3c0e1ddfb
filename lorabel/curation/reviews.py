"""What people say about a random sample of predictions for review, and whether the promise about all holds.

The sample is drawn from all tasks that would be accepted. So the number of wrong ones among those that were
reviewed is hypergeometric, whatever the model, its scores, or the cases that proved the promise. What is tested is
the promise of an acceptance, with other tasks than those that it was made from.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.curation import whole_answers
from lorabel.curation.proven_precision import smallest_breach
from lorabel.database import acceptances
from lorabel.database.acceptance_tables import AcceptedState, AcceptedTask
from lorabel.database.store import id_chunks
from lorabel.database.tables import Acceptance, Annotation, Project
from lorabel.errors import ConflictError, LorabelError
from lorabel.evaluation.proportions import Interval
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind

# Of tasks in these states a prediction was shown, so that people could review it.
SHOWN = (AcceptedState.SHOWN, AcceptedState.REMOVED)


class Verdict(StrEnum):
    """Whether the promise holds, as far as the review tells."""

    HOLDS = "holds"
    MISSED = "missed"
    OPEN = "too few to tell"


@dataclass(frozen=True)
class Review:
    """What came of a review so far.

    Attributes:
        tasks: how many predictions the promise is about; the sample was drawn from these.
        sampled: how many are in the sample.
        reviewed: how many of these have an annotation that says whether the prediction is right.
        wrong: how many of these say that it is not.
        skipped: how many somebody has skipped, and nobody annotated. They say nothing.
        precision: the promised part of right ones.
        confidence: of `interval`.
        unjudged: how many have an annotation that does not say whether the prediction is right: it says nothing,
            or the label config has changed since.
    """

    tasks: int
    sampled: int
    reviewed: int
    wrong: int
    skipped: int
    precision: float
    confidence: float
    unjudged: int = 0

    @property
    def estimate(self) -> float | None:
        """The part of the reviewed predictions that is right; None if none was reviewed."""
        return 1 - self.wrong / self.reviewed if self.reviewed else None

    @property
    def interval(self) -> Interval:
        """Where the part of all these predictions that is right lies, with the confidence; two-sided and exact.

        Those that are reviewed first, or not skipped, are no random sample. So the lower end takes all others of
        the sample as wrong, and the upper end as right.
        """
        others = self.sampled - self.reviewed
        low, _ = right_part(self.wrong + others, self.sampled, self.tasks, self.confidence)
        _, high = right_part(self.wrong, self.sampled, self.tasks, self.confidence)
        return Interval(low, high)

    @property
    def verdict(self) -> Verdict:
        """Whether all of the interval keeps the promise, or none of it."""
        breach = 1 - smallest_breach(self.tasks, self.precision) / self.tasks if self.tasks else 0.0
        if not self.reviewed:
            return Verdict.OPEN
        if self.interval.low > breach:
            return Verdict.HOLDS
        return Verdict.MISSED if self.interval.high <= breach else Verdict.OPEN

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        if self.unjudged:
            skipped += (
                f", {self.unjudged} annotated so that nobody can tell (or the label config has changed since)"
            )
        if self.estimate is None:
            return f"none of {self.sampled} sampled tasks is reviewed yet{skipped}"
        words = {
            Verdict.HOLDS: f"the promised {self.precision:.1%} holds",
            Verdict.MISSED: f"the promised {self.precision:.1%} is missed",
            Verdict.OPEN: f"too few to tell whether the promised {self.precision:.1%} holds",
        }
        low, high = self.interval
        return (
            f"{self.reviewed} of {self.sampled} sampled tasks are reviewed{skipped}, {self.wrong} wrong: "
            f"{self.estimate:.1%} right ({low:.1%} to {high:.1%} of all {self.tasks}, {self.confidence:.0%} "
            f"confidence); {words[self.verdict]}"
        )


def sample_size(tasks: int, precision: float, confidence: float) -> int:
    """How many of these tasks prove the promise about all of them if none is wrong; all if fewer do not."""
    least = 1 - smallest_breach(tasks, precision) / tasks if tasks else 0.0
    low, high = 0, tasks
    while low < high:
        middle = (low + high) // 2
        is_enough = right_part(0, middle, tasks, confidence).low > least
        low, high = (low, middle) if is_enough else (middle + 1, high)
    return low


def right_part(wrong: int, reviewed: int, tasks: int, confidence: float) -> Interval:
    """The interval of the part of `tasks` that is right, if of `reviewed` random ones `wrong` are not.

    It has the numbers of wrong ones that both tails of the hypergeometric distribution leave possible: Clopper and
    Pearson's interval for a finite number of tasks.
    """
    if not tasks or not reviewed:
        return Interval(0.0, 1.0)
    tail = (1 - confidence) / 2
    # More wrong ones make so few among the reviewed less probable, and so many more probable.
    most = _last(
        wrong, tasks - (reviewed - wrong), lambda all_wrong: _at_most(wrong, reviewed, tasks, all_wrong) > tail
    )
    fewest = wrong
    if wrong:
        fewest = 1 + _last(
            wrong - 1,
            most,
            lambda all_wrong: 1 - _at_most(wrong - 1, reviewed, tasks, all_wrong) <= tail,
        )
    return Interval(1 - most / tasks, 1 - fewest / tasks)


def _last(low: int, high: int, is_possible: Callable[[int], bool]) -> int:
    """The largest number from `low` to `high` for which it holds, if it holds for `low` and then for no more."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if is_possible(middle) else (low, middle - 1)
    return low


def _at_most(wrong: int, reviewed: int, tasks: int, all_wrong: int) -> float:
    """The probability of at most `wrong` wrong ones among `reviewed`, drawn from `tasks` with `all_wrong`."""
    least = max(0, reviewed - (tasks - all_wrong))
    logs = [
        _log_choose(all_wrong, count)
        + _log_choose(tasks - all_wrong, reviewed - count)
        - _log_choose(tasks, reviewed)
        for count in range(least, min(wrong, all_wrong, reviewed) + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))


def _log_choose(size: int, chosen: int) -> float:
    return math.lgamma(size + 1) - math.lgamma(chosen + 1) - math.lgamma(size - chosen + 1)


def read_review(session: Session, project: Project, acceptance: Acceptance) -> Review:
    """Read what people say about the sample of an acceptance.

    Raises:
        ConflictError: it was not for review.
        LorabelError: the label config asks something else by now.
    """
    if acceptance.review_size is None:
        raise ConflictError(f"acceptance {acceptance.id} of project {project.id} was not for review")
    problem = whole_answers.acceptable(bind(project.label_config or ""))
    counts = acceptances.count_states(session, acceptance.id)
    # Of thousands of predictions only the sample is read.
    sample = {row.task_id: row for row in acceptances.sample_in(session, acceptance.id, *SHOWN)}
    said, skipped = _annotations(session, project.id, list(sample))
    verdicts = [_is_right(problem, sample[task_id], of_task) for task_id, of_task in said.items()]
    known = [verdict for verdict in verdicts if verdict is not None]
    return Review(
        sum(counts.get(state, 0) for state in SHOWN),
        len(sample),
        len(known),
        known.count(False),
        len(skipped - said.keys()),
        acceptance.precision,
        acceptance.confidence,
        len(verdicts) - len(known),
    )


def _annotations(
    session: Session, project_id: int, task_ids: Sequence[int]
) -> tuple[Mapping[int, list[Annotation]], set[int]]:
    """Task id -> the newest annotation of each annotator, and the tasks that somebody has skipped."""
    newest: dict[tuple[int, int | None], Annotation] = {}
    for chunk in id_chunks(sorted(task_ids)):
        rows = select(Annotation).where(
            Annotation.project_id == project_id, Annotation.task_id.in_(chunk), Annotation.is_deleted.is_(False)
        )
        for annotation in session.scalars(rows.order_by(Annotation.updated_at, Annotation.id)):
            newest[annotation.task_id or 0, annotation.completed_by] = annotation
    said: dict[int, list[Annotation]] = {}
    skipped = set()
    for (task_id, _), annotation in newest.items():
        if annotation.was_cancelled:
            skipped.add(task_id)
        else:
            said.setdefault(task_id, []).append(annotation)
    return said, skipped


def _is_right(problem: Problem, row: AcceptedTask, annotations: Sequence[Annotation]) -> bool | None:
    """Whether all annotators say what was predicted; None if one of them says nothing that can be read.

    Also None if the prediction cannot be read any more, for example because its label was renamed.
    """
    verdicts = []
    for annotation in annotations:
        data = annotation.task_data or {}
        try:
            if row.result:
                problem.target(row.result, data)
            target = problem.target(annotation.result or [], data)
        except LorabelError:
            return None
        verdicts.append(whole_answers.is_right(problem, row.result, data, target))
    return None if None in verdicts else all(verdicts)
