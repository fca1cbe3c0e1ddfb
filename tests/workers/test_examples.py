from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from lorabel.contracts import LabelTarget
from lorabel.database.tables import Annotation
from lorabel.problems.binding import bind
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings
from tests.workers.events import START
from workers.examples import Plan, balanced, is_held_out, plan

BOUND = bind(ImageClassification.SAMPLES[0].label_config)
PROBLEM = BOUND.bindings[0]


def annotation(annotation_id: int, task_id: int, label: str = "red", **changed: Any) -> Annotation:
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [label]}}]
    columns: dict[str, Any] = {
        "project_id": 1,
        "task_data": {"image": f"/{task_id}.png"},
        "result": result,
        "ground_truth": False,
        "updated_at": START + timedelta(seconds=annotation_id),
        "received_at": START + timedelta(seconds=annotation_id),
        "run_id": None,
    }
    return Annotation(id=annotation_id, task_id=task_id, **{**columns, **changed})


def settings(**changed: Any) -> Settings:
    return Settings(**{"held_out_percent": 20, "replay_annotations": 10, **changed})


def planned(annotations: list[Annotation]) -> Plan:
    return plan(PROBLEM, BOUND.config, annotations, settings(), seed=1)


def test_about_a_fifth_of_the_tasks_is_held_out_and_always_the_same_ones() -> None:
    held_out = [task for task in range(10_000) if is_held_out(task, 20)]
    assert 1900 < len(held_out) < 2100
    assert held_out[:5] == [task for task in range(100) if is_held_out(task, 20)][:5]
    assert {task for task in range(10_000) if is_held_out(task, 10)} <= set(held_out)


def test_no_held_out_task_is_ever_trained_on() -> None:
    made = plan(
        PROBLEM, BOUND.config, [annotation(i, i, run_id=i % 2 or None) for i in range(200)], settings(), seed=1
    )
    assert all(is_held_out(lesson.task_id, 20) for lesson in made.held_out)
    assert not any(is_held_out(lesson.task_id, 20) for lesson in made.train)


def test_all_new_annotations_are_taken_and_a_bounded_balanced_part_of_the_old_ones() -> None:
    old = [annotation(i, i, "red" if i < 180 else "blue", run_id=1) for i in range(200)]
    new = [annotation(i, i, "red") for i in range(200, 230)]
    made = planned(old + new)
    assert sum(lesson.is_new for lesson in made.train) == sum(not is_held_out(i, 20) for i in range(200, 230))
    replayed = [lesson.target for lesson in made.train if not lesson.is_new]
    assert Counter(replayed) == {LabelTarget((0,)): 5, LabelTarget((1,)): 5}


def test_of_several_annotations_of_a_task_the_ground_truth_counts_else_the_newest() -> None:
    task = next(i for i in range(100) if not is_held_out(i, 20))
    several = [annotation(1, task, "red"), annotation(3, task, "blue"), annotation(2, task, "red")]
    assert [lesson.annotation_ids for lesson in planned(several).train] == [(3,)]
    several[0].ground_truth = True
    assert [lesson.annotation_ids for lesson in planned(several).train] == [(1,)]


def test_several_annotators_are_a_soft_target_with_one_voice_each() -> None:
    task = next(i for i in range(100) if not is_held_out(i, 20))
    said = ("blue", "red", "red", "blue")
    several = [annotation(i, task, label, completed_by=min(i, 3)) for i, label in enumerate(said, 1)]
    (lesson,) = planned(several).train
    assert lesson.annotation_ids == (1, 2, 4), "the third is the same person's as the fourth, who changed his mind"
    assert lesson.target == LabelTarget((1,), (1 / 3, 2 / 3))
    several[3].completed_by = 2
    (lesson,) = planned(several).train
    assert lesson.target.indices == (1,), "the newest says so, where as many say one as the other"


def test_what_was_hidden_teaches_nothing() -> None:
    """Else no choice in a hidden tag of several would mean that none of them fits."""
    hidden = """<View><Image name="image" value="$image"/>
      <Choices name="kind" toName="image"><Choice value="animal"/><Choice value="thing"/></Choices>
      <Choices name="label" toName="image" choice="multiple" visibleWhen="choice-selected" whenTagName="kind"
        whenChoiceValue="animal"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
    bound = bind(hidden)
    said = [{"from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": ["thing"]}}]
    skipped = plan(bound.bindings[1], bound.config, [annotation(1, 1, result=said)], settings(), 1).skipped
    assert skipped[1] == "'label' was not shown with these answers (visibleWhen)"


def test_what_teaches_nothing_is_skipped_with_the_reason() -> None:
    odd = [annotation(1, 1, "purple"), annotation(2, 2, result=[]), annotation(3, 3, task_data=None)]
    skipped = planned(odd).skipped
    assert "which the label config no longer has" in skipped[1]
    assert "no choice was made in 'label'" in skipped[2]
    assert "did not carry the task's data" in skipped[3]


@pytest.mark.parametrize("most", [0, 1, 7, 100])
def test_balanced_takes_the_classes_in_turn_and_no_more_than_asked(most: int) -> None:
    items = ["a"] * 50 + ["b"] * 3 + ["c"] * 20
    taken = Counter(balanced(items, lambda item: item, most, seed=3))
    assert sum(taken.values()) == min(most, len(items))
    if most == 7:
        assert sorted(taken.values()) == [2, 2, 3]


def test_an_annotation_whose_task_lacks_what_it_is_about_is_skipped_with_the_reason() -> None:
    """Spans are read with the text; a run must not fail for one task without it."""
    config = """<View><Text name="text" value="$text"/>
      <Labels name="part" toName="text"><Label value="Person"/></Labels></View>"""
    bound = bind(config)
    broken = annotation(1, 1, task_data={"text": None}, result=[])
    skipped = plan(bound.bindings[0], bound.config, [broken], settings(), 1).skipped
    assert "'text'" in skipped[1]
