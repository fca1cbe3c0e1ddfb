"""Annotations that contradict what their pictures show; the vectors stand in for those of a model."""

from typing import Any

import numpy as np
import pytest

from lorabel.curation import label_errors
from lorabel.curation.label_errors import LabelErrors, Sources, find
from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.errors import ConflictError, NotFoundError
from lorabel.inference.model_client import ModelClient
from lorabel.label_studio.authorizations import Authorizations
from lorabel.settings import Settings

COLOURS = ("red", "blue", "green")


def config(attributes: str = "") -> str:
    choices = "".join(f'<Choice value="{value}"/>' for value in COLOURS)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<Choices name="label" toName="image" {attributes}>{choices}</Choices></View>'


@pytest.fixture(autouse=True)
def vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture lies where the colours in its address do, and a little beside."""

    def near(caller: Any, bound: Any, tasks: list[dict[str, Any]], resolve: Any) -> list[Any]:
        found: list[Any] = []
        for task in tasks:
            shown = np.array([float(colour in task["image"]) for colour in COLOURS])
            dice = np.random.default_rng(int(task["image"].rsplit("-", 1)[1]))
            found.append(None if "broken" in task["image"] else (shown + dice.normal(0, 0.1, 3)).astype("f4"))
        return found

    monkeypatch.setattr(label_errors, "task_vectors", near)


def annotate(store: Store, *said: tuple[str, str]) -> None:
    """Task and annotation `i` from 1: what the picture shows, and what was said, words apart."""
    with store.write() as session:
        for i, (shown, given) in enumerate(said, start=1):
            choices = {"from_name": "label", "type": "choices", "value": {"choices": given.split()}}
            data = {"image": f"http://pictures.test/{shown}-{i}"}
            result = [choices] if given else []
            session.add(Annotation(id=i, project_id=1, task_id=i, task_data=data, result=result))


def look(settings: Settings, store: Store) -> LabelErrors:
    return find(Sources(settings, store, ModelClient(settings), Authorizations()), 1)


def test_the_wrong_annotation_is_named_with_what_it_should_be(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_config=config())
    annotate(
        store, *[("red", "red"), ("blue", "blue"), ("green", "green")] * 8, ("red", "green"), ("broken", "red")
    )
    found = look(settings, store)
    (error,) = found.errors
    assert (error.from_name, error.task_id, error.annotation_id) == ("label", 25, 25)
    assert (error.given, error.suggested) == ("green", "red")
    assert error.score < 0.3
    assert (found.checked, found.left_out) == (25, [])


def test_of_several_labels_one_that_is_missing_and_one_too_many_are_named(
    settings: Settings, store: Store
) -> None:
    projects.upsert(store, 1, label_config=config('choice="multiple"'))
    right = [("red", "red"), ("red blue", "red blue"), ("blue", "blue"), ("nothing", "")] * 8
    annotate(store, *right, ("red blue", "red"), ("nothing", "blue"))
    found = look(settings, store)
    assert {(one.task_id, one.given, one.suggested) for one in found.errors} == {
        (33, "", "blue"),
        (34, "blue", ""),
    }
    assert [one.score for one in found.errors] == sorted(one.score for one in found.errors)


def test_a_label_of_few_tasks_is_left_out_and_named(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_config=config())
    annotate(store, *[("red", "red"), ("blue", "blue")] * 6, *[("green", "green")] * 4)
    found = look(settings, store)
    assert (found.errors, found.checked) == ([], 12)
    assert found.left_out == ["label: 'green' was given to 4 tasks, 5 needed"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([], "none of its 0 annotations says something in words"),
        ([("red", "red")] * 9, "label: all 9 annotations say the same"),
        ([("red", "red")] * 9 + [("blue", "blue")] * 3, "label: 'blue' was given to 3 tasks, 5 needed"),
    ],
)
def test_too_little_to_tell_says_what_it_takes(
    settings: Settings, store: Store, said: list[tuple[str, str]], why: str
) -> None:
    projects.upsert(store, 1, label_config=config())
    annotate(store, *said)
    with pytest.raises(ConflictError, match=f"project 1: label errors cannot be looked for: {why}"):
        look(settings, store)


def test_an_unknown_project_is_not_found(settings: Settings, store: Store) -> None:
    with pytest.raises(NotFoundError, match="project 1 is not known"):
        look(settings, store)
