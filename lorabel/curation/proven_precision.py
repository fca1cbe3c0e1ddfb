"""The score above which predictions may be accepted unseen, with a promise about how many of them are right.

The promise is about the tasks that are accepted, not about a mean over tasks to come: with the stated confidence,
at most `1 - precision` of the open tasks with such scores are predicted wrongly. It is proved from cases, that is,
from annotated tasks that were predicted by a model that has not learned from them.

If cases and open tasks are exchangeable, then among all tasks from a score on it is pure chance which are cases.
So the number of errors among the cases is hypergeometric. `probability_of_luck` says how probable so few
errors are at most, if there are too many errors among the open tasks.

An acceptance takes tasks away whose scores are high, and so does a review, which has some of them annotated. The
others are no longer like the cases. So tasks that were accepted or reviewed before count among those from which
the cases were drawn, but nothing is promised about them, and what people say about them proves nothing.

Looking at many scores and taking the one that looks best breaks such a test. So at most MOST_SCORES scores are
tried, which are chosen without looking at what is right, and the permitted probability is divided between them
(Bonferroni), as in Learn then Test (Angelopoulos et al., https://arxiv.org/abs/2110.01052). The fixed-sequence
test there would need fewer cases, but its proof is about the mean over tasks to come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from lorabel.families.encoders.heads.platt import SAME, log_odds, platt

ChanceRight = Callable[[NDArray[np.float64]], NDArray[np.float64]]

MOST_SCORES = 6
# The lowest number of cases that could prove anything is exceeded by this factor, since chance divides cases and
# open tasks.
SLACK = 1.1
# A number of errors that is permitted must not fall to the next lower integer by rounding.
TINY = 1e-9
# More cases are not thought about when it is said how many are needed.
MOST_CASES = 1_000_000
# Of the prior of Platt scaling: so little that hundreds of cases without an error are believed.
TIGHTNESS = 0.05


@dataclass(frozen=True)
class Case:
    """An annotated task as it was predicted by a model that has not learned from it."""

    score: float
    is_right: bool


@dataclass(frozen=True)
class Proof:
    """What the cases prove about predictions of one label, or of all labels together.

    Attributes:
        score: predictions with at least this score may be accepted; None if nothing is proved.
        cases: number of cases with such scores; of all cases if nothing is proved.
        errors: how many of these were predicted wrongly.
        tasks: number of open tasks with such scores; of all open tasks if nothing is proved.
        expected_errors: how many of these are probably predicted wrongly, by the cases of all labels.
        most_errors: with the confidence asked for, not more are.
        needed: about how many more annotated tasks would prove enough, if as many of them are right; None if the
            promise is proved, or if no number of them would.
        reason: why nothing is proved; empty if something is.
    """

    score: float | None
    cases: int
    errors: int
    tasks: int
    expected_errors: float
    most_errors: int
    needed: int | None = None
    reason: str = ""

    @property
    def bound(self) -> float:
        """The least part of these tasks that is predicted rightly, with the confidence asked for."""
        return 1 - self.most_errors / self.tasks if self.tasks else 0.0


def prove(
    cases: Sequence[Case],
    open_scores: Sequence[float],
    precision: float,
    confidence: float = 0.95,
    taken_scores: Sequence[float] = (),
    all_cases: Sequence[Case] | None = None,
) -> Proof:
    """Find the lowest score from which on predictions are proved to be right often enough.

    Args:
        cases: of one label, or of all.
        open_scores: scores of the open tasks that are predicted to have this label.
        precision: in (0, 1): the part of the accepted tasks that must be right.
        confidence: in (0, 1): the least probability with which that holds.
        taken_scores: of tasks that were accepted or reviewed before. Without them open tasks are no longer like
            cases.
        all_cases: those of all labels; `cases` by default. They say how many errors are expected. The cases from
            the chosen score on do not, since score and label are chosen because few of these are wrong.
    """
    chance_right = _chance_right(cases if all_cases is None else all_cases)
    scores, are_right = _sorted(cases)
    unseen = -np.sort(-np.asarray(open_scores, np.float64))
    if not len(unseen):
        return _unproved(scores, are_right, unseen, confidence, chance_right, "no open task is predicted so")
    if not len(scores):
        needed = _fewest_cases(len(unseen), precision, 1 - confidence)
        return _unproved(scores, are_right, unseen, confidence, chance_right, "there are no cases", needed)
    taken = np.asarray(taken_scores, np.float64)
    tried = _tried_scores(scores, np.concatenate([unseen, taken]), precision, 1 - confidence)
    allowed = (1 - confidence) / len(tried)
    proofs = [_at(score, scores, are_right, unseen, taken, precision, allowed, chance_right) for score in tried]
    proved = [proof for proof in proofs if proof is not None]
    if proved:
        return max(proved, key=lambda proof: proof.tasks)
    more = _needed(tried, scores, are_right, unseen, taken, precision, allowed)
    reason = "too few cases" if more is not None else "too many of the cases are wrong, whatever their score"
    return _unproved(scores, are_right, unseen, confidence, chance_right, reason, more)


def probability_of_luck(errors: int, cases: int, tasks: int, too_many: int) -> float:
    """Return how probable a test passes by luck, at most, that passes with so many errors or fewer.

    A test passes by luck if at least `too_many` of the open tasks are predicted wrongly. For a fixed number of
    errors among all tasks, the errors among the cases are hypergeometric. With `errors + too_many` in all, luck is
    most probable: with fewer, fewer of them are among the open tasks, and with more, more among the cases.

    Args:
        errors: among the cases.
        cases: number of cases.
        tasks: number of open tasks.
        too_many: the smallest number of errors among the open tasks that breaks the promise.
    """
    if too_many > tasks:
        return 0.0
    return _at_most(errors, cases, tasks, errors + too_many)


def smallest_breach(tasks: int, precision: float) -> int:
    """The smallest number of errors among so many tasks that breaks the promise."""
    return floor((1 - precision) * tasks + TINY) + 1


def _at_most(errors: int, cases: int, tasks: int, all_errors: int) -> float:
    """The probability of at most `errors` errors among `cases`, drawn from `cases + tasks` with `all_errors`."""
    from scipy.stats import hypergeom  # takes a second

    return float(hypergeom.cdf(errors, cases + tasks, all_errors, cases))


def _sorted(cases: Sequence[Case]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and what is right, the highest score first."""
    ordered = sorted(cases, key=lambda case: -case.score)
    scores = np.array([case.score for case in ordered], np.float64)
    return scores, np.array([case.is_right for case in ordered], np.bool_)


def _tried_scores(
    scores: NDArray[np.float64], unseen: NDArray[np.float64], precision: float, allowed: float
) -> list[float]:
    """The scores that are tried: a function of the scores of cases and open tasks together.

    The first has about as many cases above it as are needed if none of them is wrong; the last has all.
    """
    pooled = -np.sort(-np.concatenate([scores, unseen]))
    size = len(pooled)
    first = _first_size(size, len(scores) / size, precision, allowed / MOST_SCORES)
    sizes = [size] if first >= size else np.linspace(first, size, MOST_SCORES).round().astype(int).tolist()
    return sorted({float(pooled[of_size - 1]) for of_size in sizes}, reverse=True)


def _first_size(size: int, share: float, precision: float, allowed: float) -> int:
    """How many tasks there must be, of which `share` are cases, to prove something if no case is wrong."""
    low, high = 1, size
    while low < high:
        middle = (low + high) // 2
        cases = round(share * middle)
        tasks = middle - cases
        luck = probability_of_luck(0, cases, tasks, smallest_breach(tasks, precision)) if tasks else 0.0
        low, high = (low, middle) if luck <= allowed else (middle + 1, high)
    return ceil(SLACK * low)


def _at(
    score: float,
    scores: NDArray[np.float64],
    are_right: NDArray[np.bool_],
    unseen: NDArray[np.float64],
    taken: NDArray[np.float64],
    precision: float,
    allowed: float,
    chance_right: ChanceRight,
) -> Proof | None:
    """What is proved about all predictions from a score on; None if it is less than was asked for."""
    cases, tasks = int((scores >= score).sum()), int((unseen >= score).sum())
    errors = int((~are_right[:cases]).sum())
    others = tasks + int((taken >= score).sum())
    if not tasks or probability_of_luck(errors, cases, others, smallest_breach(tasks, precision)) > allowed:
        return None
    most = min(tasks, _most_errors(errors, cases, others, allowed))
    return Proof(score, cases, errors, tasks, _expected_errors(unseen[:tasks], chance_right, most), most)


def _most_errors(errors: int, cases: int, tasks: int, allowed: float) -> int:
    """The largest number of errors among the open tasks that the cases do not rule out."""
    low, high = 0, tasks
    while low < high:
        middle = (low + high) // 2
        is_ruled_out = probability_of_luck(errors, cases, tasks, middle + 1) <= allowed
        low, high = (low, middle) if is_ruled_out else (middle + 1, high)
    return low


def _chance_right(cases: Sequence[Case]) -> ChanceRight:
    """Return what turns scores into chances to be right, by Platt scaling; without cases these are the scores."""
    scores, are_right = _sorted(cases)
    scale = platt(_logits(scores), are_right, tightness=TIGHTNESS) if len(cases) else SAME
    return lambda asked: 1 / (1 + np.exp(-(scale.factor * _logits(asked) + scale.shift)))


def _logits(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([log_odds(score) for score in scores], np.float64)


def _expected_errors(scores: NDArray[np.float64], chance_right: ChanceRight, most: int) -> float:
    return min(float((1 - chance_right(scores)).sum()), float(most))


def _unproved(
    scores: NDArray[np.float64],
    are_right: NDArray[np.bool_],
    unseen: NDArray[np.float64],
    confidence: float,
    chance_right: ChanceRight,
    reason: str,
    needed: int | None = None,
) -> Proof:
    errors = int((~are_right).sum())
    most = _most_errors(errors, len(scores), len(unseen), 1 - confidence)
    expected = _expected_errors(unseen, chance_right, most)
    return Proof(None, len(scores), errors, len(unseen), expected, most, needed, reason)


def _fewest_cases(tasks: int, precision: float, allowed: float) -> int:
    """The number of cases that prove enough about `tasks` open tasks if none of them is wrong."""
    breach = smallest_breach(tasks, precision)
    return _smallest(lambda cases: probability_of_luck(0, cases, tasks, breach) <= allowed, 1) or 0


def _needed(
    tried: Sequence[float],
    scores: NDArray[np.float64],
    are_right: NDArray[np.bool_],
    unseen: NDArray[np.float64],
    taken: NDArray[np.float64],
    precision: float,
    allowed: float,
) -> int | None:
    """How many more cases would do, if as many of them were right as of those that there are."""
    counts = [tuple(int((some >= score).sum()) for some in (scores, unseen, taken)) for score in tried]
    wrong = np.concatenate([[0], np.cumsum(~are_right)])
    size = len(scores)

    def is_enough(all_cases: int) -> bool:
        times = all_cases / size
        return any(
            probability_of_luck(
                ceil(times * wrong[cases] - TINY),
                round(times * cases),
                tasks + accepted,
                smallest_breach(tasks, precision),
            )
            <= allowed
            for cases, tasks, accepted in counts
            if cases and tasks
        )

    enough = _smallest(is_enough, size + 1)
    return None if enough is None else enough - size


def _smallest(is_enough: Callable[[int], bool], least: int) -> int | None:
    """The smallest number from `least` on that is enough; None if none up to MOST_CASES is."""
    low, high = least, least
    while not is_enough(high):
        low, high = high + 1, 2 * high
        if high > MOST_CASES:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low
