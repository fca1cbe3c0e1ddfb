from itertools import islice

from benchmarks.drawn_tasks import event, project_key
from lorabel.database.project_keys import ProjectKey
from lorabel.demo.pictures import random_pictures


def test_predictions_are_asked_for_the_project_that_the_events_train() -> None:
    (picture,) = islice(random_pictures(1), 1)
    project = event(1, picture)["project"]
    key = ProjectKey.parse(project_key())
    assert key.label_studio_id == project["id"]
    assert key.created_at is not None
    assert key.created_at.isoformat(timespec="seconds")[:19] == project["created_at"][:19]
