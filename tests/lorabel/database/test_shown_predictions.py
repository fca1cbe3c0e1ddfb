from lorabel.database import shown_predictions
from lorabel.database.shown_predictions import Shown
from lorabel.database.store import Store
from lorabel.database.tables import Annotation


def test_what_annotators_accepted_is_counted_by_version_whatever_the_head(store: Store) -> None:
    shown = [
        ("p1.v3.h7", True, False),
        ("p1.v3.h8", True, False),
        ("p1.v3", False, False),
        ("p1.v3.h9.r2", True, False),
        ("p1.v3.r12", False, False),
        ("p1.v0.r2", True, False),
        ("p1.v0", False, False),
        ("p1.v0", None, False),  # skipped, or not known
        ("p1.v0", True, True),  # deleted
        (None, None, False),
        ("of-another-model", True, False),
    ]
    with store.write() as session:
        for project_id in (1, 2):
            for number, (version, is_accepted, is_deleted) in enumerate(shown, 1):
                session.add(
                    Annotation(
                        project_id=project_id,
                        id=10 * project_id + number,
                        prediction_version=version,
                        is_accepted=is_accepted,
                        is_deleted=is_deleted,
                    )
                )
    with store.read() as session:
        by_version, base = shown_predictions.read(session, 1)
        assert by_version == shown_predictions.by_version(session, 1)
        assert by_version == {
            "p1.v3": Shown(5, 3),
            "p1.v0": Shown(2, 1),
            "of-another-model": Shown(1, 1),
        }
        assert base == Shown(2, 1)
