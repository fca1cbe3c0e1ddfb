"""The newest figure of projects, and its course, as the page of all projects shows them."""

import pytest

from lorabel.database import version_scores
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion, Project, VersionState


def version(project_id: int, number: int, tag: str, accuracy: float | None) -> ModelVersion:
    """A version that was measured for one control tag; not measured if `accuracy` is None."""
    measured = {} if accuracy is None else {tag: {"tasks": 50, "accuracy": accuracy, "confusion": [[1, 2]]}}
    return ModelVersion(
        project_id=project_id,
        number=number,
        parent=0,
        state=VersionState.RETIRED,
        base_models={},
        adapters={},
        metrics={"candidate": measured, "live": {}, "primary": {tag: "accuracy"}},
        trained_on=[1],
    )


@pytest.fixture
def projects(store: Store) -> None:
    """Two projects with versions, of which the newest of the second was not measured, and one without."""
    with store.write() as session:
        session.add_all([Project(id=number) for number in (1, 2, 3)])
        session.flush()
        session.add_all([version(1, number, "shape", number / 100) for number in range(1, 16)])
        session.add_all([version(2, 1, "a tag, {odd}", 0.5), version(2, 2, "a tag, {odd}", None)])


def test_the_newest_measured_version_of_each_project_is_found(store: Store, projects: None) -> None:
    with store.read() as session:
        newest = version_scores.newest_of_each(session, [1, 2, 3])
    assert {number: (score.control_tag, score.value) for number, score in newest.items()} == {
        1: ("shape", 0.15),
        2: ("a tag, {odd}", 0.5),
    }


def test_the_course_of_a_figure_ends_with_the_newest_version(store: Store, projects: None) -> None:
    with store.read() as session:
        newest = version_scores.newest_of_each(session, [1, 2, 3])
        courses = version_scores.courses(session, newest, 12)
        assert version_scores.courses(session, {}, 12) == {}
    assert courses[1] == pytest.approx([number / 100 for number in range(4, 16)])
    assert courses[2] == []  # its control tag has a name that is not looked up
