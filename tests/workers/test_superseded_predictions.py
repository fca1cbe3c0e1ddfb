"""What bulk runs delete in Label Studio: predictions by older heads that nobody needs."""

from lorabel.database.tables import RunState
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from tests.workers.test_preannotate import counts, preannotate_tasks, versions_of
from workers.services import Services


def test_of_predictions_by_older_heads_the_newest_and_annotated_ones_stay(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    """Each bulk run after a submit has newer heads. Somebody may have the newest prediction open."""
    add_tasks(label_studio, "red", "blue")
    names = ("p1.v0.h1", "p1.v0.h2", "p1.v0.h3", "p1.v0.h9", "p1.v1.h4", "p10.v0.h1", "imported")
    label_studio.tasks[0]["predictions"] += [
        {"id": 100 + number, "model_version": name} for number, name in enumerate(names)
    ]
    label_studio.tasks[0]["annotations"] = [{"id": 5, "was_cancelled": False, "parent_prediction": 101}]
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 2, 0, 0)
    kept = ["p1.v0.h2", "p1.v0.h9", "p1.v1.h4", "p10.v0.h1", "imported"]
    assert versions_of(label_studio) == [[*kept, "p1.v0"], ["p1.v0"]]
    preannotate_tasks(services)
    assert versions_of(label_studio) == [[*kept, "p1.v0"], ["p1.v0"]]
