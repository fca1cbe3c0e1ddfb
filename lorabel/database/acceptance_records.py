"""What commands and REST say of an acceptance."""

from collections.abc import Mapping

from lorabel.database.base_table import Json
from lorabel.database.tables import Acceptance

FIELDS: tuple[str, ...] = ("id", "run_id", "undo_run_id", "precision", "confidence", "is_together", "is_written")
FIELDS += ("review_size", "tab_id")
FIELDS += ("user_email", "version", "cases_from", "labels", "warnings", "created_at")


def promise(acceptance: Acceptance) -> str:
    """What is promised, with what method, and what has to be true for it; one sentence each."""
    is_together = [proof["label"] for proof in acceptance.labels or ()] == [""] or acceptance.is_together
    about = "all that is accepted together" if is_together else "each label by itself, not all together"
    return (
        f"promised: with {acceptance.confidence:.0%} confidence, at least {acceptance.precision:.1%} of the "
        f"accepted tasks are right, of {about}. Method: exact hypergeometric test of the open tasks against the "
        "cases, Bonferroni over the scores that were tried. Assumed: annotated and open tasks are exchangeable, "
        "as if drawn at random from one pile; the annotations of the cases are right; and a head that has learned "
        "from all cases is no worse than one that has learned from nine tenths."
    )


def acceptance_record(acceptance: Acceptance, counts: Mapping[str, int]) -> Json:
    """The fields of an acceptance.

    Args:
        counts: by state the number of its tasks, see `AcceptedState`.
    """
    fields = {name: getattr(acceptance, name) for name in FIELDS}
    return {**fields, "promise": promise(acceptance), "tasks": dict(counts)}
