"""What bulk runs delete in Label Studio: predictions by older heads that nobody needs."""

from datetime import timedelta
from typing import Any

from lorabel.database.tables import RunState, now
from tests.lorabel.fake_label_studio import FakeLabelStudio
from tests.workers.conftest import add_tasks
from tests.workers.test_preannotate import counts, preannotate_tasks, versions_of
from workers.services import Services


def test_of_predictions_by_older_heads_the_newest_and_annotated_ones_stay(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    """Each bulk run after a submit has newer heads. These runs were hours ago."""
    add_tasks(label_studio, "red", "blue")
    names = ("p1.v0.h1", "p1.v0.h2", "p1.v0.h3", "p1.v0.h9", "p1.v1.h4", "p10.v0.h1", "imported")
    label_studio.tasks[0]["predictions"] += [
        stored(100 + number, name, age_in_minutes=300) for number, name in enumerate(names)
    ]
    label_studio.tasks[0]["annotations"] = [{"id": 5, "was_cancelled": False, "parent_prediction": 101}]
    assert counts(preannotate_tasks(services)) == (RunState.FINISHED, 2, 0, 0)
    kept = ["p1.v0.h2", "p1.v0.h9", "p1.v1.h4", "p10.v0.h1", "imported"]
    assert versions_of(label_studio) == [[*kept, "p1.v0"], ["p1.v0"]]
    preannotate_tasks(services)
    assert versions_of(label_studio) == [[*kept, "p1.v0"], ["p1.v0"]]


def test_a_prediction_stays_that_was_the_newest_an_hour_ago(
    services: Services, label_studio: FakeLabelStudio
) -> None:
    """Two bulk runs may come while somebody has a task open, perhaps with a prediction that was old then."""
    add_tasks(label_studio, "red")
    ages_in_minutes = {"p1.v0.h1": 300, "p1.v0.h2": 90, "p1.v0.h3": 50, "p1.v0.h4": 10}
    label_studio.tasks[0]["predictions"] += [
        stored(100 + number, name, age) for number, (name, age) in enumerate(ages_in_minutes.items())
    ]
    preannotate_tasks(services)
    assert versions_of(label_studio) == [["p1.v0.h2", "p1.v0.h3", "p1.v0.h4", "p1.v0"]]


def stored(prediction_id: int, version: str, age_in_minutes: float) -> dict[str, Any]:
    created_at = now() - timedelta(minutes=age_in_minutes)
    return {"id": prediction_id, "model_version": version, "created_at": created_at.isoformat()}
