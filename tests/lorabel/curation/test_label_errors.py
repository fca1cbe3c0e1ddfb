"""Some annotations contradict what their pictures show. The vectors are made up, in place of a model's."""

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
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.settings import Settings

COLOURS = ("red", "blue", "green")


def config(attributes: str = "") -> str:
    choices = "".join(f'<Choice value="{value}"/>' for value in COLOURS)
    image = '<Image name="image" value="$image"/>'
    return f'<View>{image}<Choices name="label" toName="image" {attributes}>{choices}</Choices></View>'


@pytest.fixture(autouse=True)
def vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture's vector has a 1 for each colour in its address, and a little noise. A broken picture has none."""

    def task_vectors(caller: Any, bound: Any, tasks: list[dict[str, Any]], resolve: Any) -> list[Any]:
        vectors: list[Any] = []
        for task in tasks:
            shown = np.array([float(colour in task["image"]) for colour in COLOURS])
            noise = np.random.default_rng(int(task["image"].rsplit("-", 1)[1])).normal(0, 0.1, 3)
            vectors.append(None if "broken" in task["image"] else (shown + noise).astype("f4"))
        return vectors

    monkeypatch.setattr(label_errors, "task_vectors", task_vectors)


def annotate(store: Store, *annotations: tuple[str, str]) -> None:
    """Add tasks and annotations with the ids 1, 2, ... Each is the shown colours and the given colours."""
    with store.write() as session:
        for i, (shown, given) in enumerate(annotations, start=1):
            choices = {"from_name": "label", "type": "choices", "value": {"choices": given.split()}}
            data = {"image": f"http://pictures.test/{shown}-{i}"}
            result = [choices] if given else []
            session.add(Annotation(id=i, project_id=1, task_id=i, task_data=data, result=result))


def find_errors(settings: Settings, store: Store) -> LabelErrors:
    return find(Sources(settings, store, ModelClient(settings), Authorizations()), 1)


def test_the_wrong_annotation_is_found_with_the_right_label(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_config=config())
    annotate(
        store, *[("red", "red"), ("blue", "blue"), ("green", "green")] * 8, ("red", "green"), ("broken", "red")
    )
    label_errors = find_errors(settings, store)
    (error,) = label_errors.errors
    assert (error.from_name, error.task_id, error.annotation_id) == ("label", 25, 25)
    assert (error.given, error.suggested) == ("green", "red")
    assert error.score < 0.3
    assert (label_errors.checked, label_errors.left_out) == (25, [])


def test_with_multiple_choice_a_missing_label_and_a_superfluous_label_are_found(
    settings: Settings, store: Store
) -> None:
    projects.upsert(store, 1, label_config=config('choice="multiple"'))
    right = [("red", "red"), ("red blue", "red blue"), ("blue", "blue"), ("nothing", "")] * 8
    annotate(store, *right, ("red blue", "red"), ("nothing", "blue"))
    errors = find_errors(settings, store).errors
    assert {(error.task_id, error.given, error.suggested) for error in errors} == {
        (33, "", "blue"),
        (34, "blue", ""),
    }
    assert [error.score for error in errors] == sorted(error.score for error in errors)


def test_a_label_of_too_few_tasks_is_left_out_and_named(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_config=config())
    annotate(store, *[("red", "red"), ("blue", "blue")] * 6, *[("green", "green")] * 4)
    label_errors = find_errors(settings, store)
    assert (label_errors.errors, label_errors.checked) == ([], 12)
    assert label_errors.left_out == ["label: 'green' was given to 4 tasks, 5 needed"]


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ([], "none of its 0 annotations says something in words"),
        ([("red", "red")] * 9, "label: all 9 annotations say the same"),
        ([("red", "red")] * 9 + [("blue", "blue")] * 3, "label: 'blue' was given to 3 tasks, 5 needed"),
    ],
)
def test_too_few_annotations_are_refused_with_how_many_are_needed(
    settings: Settings, store: Store, annotations: list[tuple[str, str]], reason: str
) -> None:
    projects.upsert(store, 1, label_config=config())
    annotate(store, *annotations)
    with pytest.raises(ConflictError, match=f"project 1: label errors cannot be looked for: {reason}"):
        find_errors(settings, store)


def test_an_unknown_project_is_not_found(settings: Settings, store: Store) -> None:
    with pytest.raises(NotFoundError, match="project 1 is not known"):
        find_errors(settings, store)
