import logging
import struct
import zlib
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from lorabel.contracts import LabelTarget, MediaRef
from lorabel.database.tables import Annotation
from lorabel.families.dual_encoder import DualEncoder
from lorabel.labeling.bit_masks import encode
from lorabel.labeling.image_regions import image_region, picture_region
from lorabel.labeling.regions import labels
from lorabel.media.fetching import Fetcher
from lorabel.problems.binding import BoundConfig, bind
from lorabel.problems.image_classification import ImageClassification
from lorabel.settings import Settings
from tests.workers.events import START
from tests.workers.pictures import data_url, pictures
from workers.examples import TrainingPlan, is_held_out, make_plan, prepare, sample_balanced

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


def plan_of(annotations: list[Annotation]) -> TrainingPlan:
    return make_plan(PROBLEM, BOUND.config, annotations, settings(), seed=1)


def test_about_a_fifth_of_the_tasks_is_held_out_and_always_the_same_tasks() -> None:
    held_out = [task for task in range(10_000) if is_held_out(task, 20)]
    assert 1900 < len(held_out) < 2100
    assert held_out[:5] == [task for task in range(100) if is_held_out(task, 20)][:5]
    assert {task for task in range(10_000) if is_held_out(task, 10)} <= set(held_out)


def test_no_held_out_task_is_ever_trained_on() -> None:
    plan = make_plan(
        PROBLEM, BOUND.config, [annotation(i, i, run_id=i % 2 or None) for i in range(200)], settings(), seed=1
    )
    assert all(is_held_out(example.task_id, 20) for example in plan.held_out)
    assert not any(is_held_out(example.task_id, 20) for example in plan.train)


def test_a_plan_has_all_new_annotations_and_a_bounded_balanced_part_of_the_old_ones() -> None:
    old = [annotation(i, i, "red" if i < 180 else "blue", run_id=1) for i in range(200)]
    new = [annotation(i, i, "red") for i in range(200, 230)]
    plan = plan_of(old + new)
    assert sum(example.is_new for example in plan.train) == sum(not is_held_out(i, 20) for i in range(200, 230))
    replayed = [example.target for example in plan.train if not example.is_new]
    assert Counter(replayed) == {LabelTarget((0,)): 5, LabelTarget((1,)): 5}


def test_of_several_annotations_of_a_task_the_ground_truth_counts_or_else_the_newest() -> None:
    task = next(i for i in range(100) if not is_held_out(i, 20))
    several = [annotation(1, task, "red"), annotation(3, task, "blue"), annotation(2, task, "red")]
    assert [example.annotation_ids for example in plan_of(several).train] == [(3,)]
    several[0].ground_truth = True
    assert [example.annotation_ids for example in plan_of(several).train] == [(1,)]


def test_the_annotations_of_several_annotators_become_a_soft_target_with_equal_weights() -> None:
    task = next(i for i in range(100) if not is_held_out(i, 20))
    labels = ("blue", "red", "red", "blue")
    several = [annotation(i, task, label, completed_by=min(i, 3)) for i, label in enumerate(labels, 1)]
    (example,) = plan_of(several).train
    assert example.annotation_ids == (1, 2, 4), (
        "annotator 3 made the third and the fourth, and the newer one counts"
    )
    assert example.target == LabelTarget((1,), (1 / 3, 2 / 3))
    several[3].completed_by = 2
    (example,) = plan_of(several).train
    assert example.target.indices == (1,), "with equally many votes for both, the newest annotation decides"


def test_the_answer_of_a_hidden_control_tag_is_skipped() -> None:
    """Otherwise an empty answer in a hidden multiple-choice tag would mean that no choice fits."""
    hidden = """<View><Image name="image" value="$image"/>
      <Choices name="kind" toName="image"><Choice value="animal"/><Choice value="thing"/></Choices>
      <Choices name="label" toName="image" choice="multiple" visibleWhen="choice-selected" whenTagName="kind"
        whenChoiceValue="animal"><Choice value="cat"/><Choice value="dog"/></Choices></View>"""
    bound = bind(hidden)
    result = [{"from_name": "kind", "to_name": "image", "type": "choices", "value": {"choices": ["thing"]}}]
    skipped = make_plan(bound.bindings[1], bound.config, [annotation(1, 1, result=result)], settings(), 1).skipped
    assert skipped[1] == "'label' was not shown with these answers (visibleWhen)"


def test_an_annotation_without_a_usable_answer_is_skipped_with_the_reason() -> None:
    unusable = [annotation(1, 1, "purple"), annotation(2, 2, result=[]), annotation(3, 3, task_data=None)]
    skipped = plan_of(unusable).skipped
    assert "which the label config no longer has" in skipped[1]
    assert "no choice was made in 'label'" in skipped[2]
    assert "did not carry the task's data" in skipped[3]


@pytest.mark.parametrize("most", [0, 1, 7, 100])
def test_a_balanced_sample_takes_the_classes_in_turn_and_has_no_more_than_the_most(most: int) -> None:
    items = ["a"] * 50 + ["b"] * 3 + ["c"] * 20
    sample = Counter(sample_balanced(items, lambda item: item, most, seed=3))
    assert sum(sample.values()) == min(most, len(items))
    if most == 7:
        assert sorted(sample.values()) == [2, 2, 3]


def test_an_annotation_whose_task_has_no_text_is_skipped_with_the_reason() -> None:
    """Spans are read together with the text; a task without a text must not fail the run."""
    config = """<View><Text name="text" value="$text"/>
      <Labels name="part" toName="text"><Label value="Person"/></Labels></View>"""
    bound = bind(config)
    broken = annotation(1, 1, task_data={"text": None}, result=[])
    skipped = make_plan(bound.bindings[0], bound.config, [broken], settings(), 1).skipped
    assert "'text'" in skipped[1]


def test_an_annotation_with_an_odd_value_is_skipped_and_the_others_are_used() -> None:
    """All of these results are stored or imported by Label Studio 1.23.2."""
    region: dict[str, Any] = {"from_name": "label", "to_name": "image", "type": "choices"}
    odd_results = [
        [{**region, "value": {"choices": None}}],
        [{**region, "value": None}],
        [{**region, "value": {"choices": "red"}}],
        [None],
        "red",
        {"choices": ["red"]},
    ]
    tasks = [task for task in range(100) if not is_held_out(task, 20)]
    odd = [annotation(task, task, result=result) for task, result in zip(tasks[1:], odd_results, strict=False)]
    plan = plan_of([annotation(tasks[0], tasks[0]), *odd])
    assert [example.annotation_ids for example in plan.train] == [(tasks[0],)]
    reasons = [plan.skipped[row.id] for row in odd]
    assert reasons[:2] == [
        "'label' was answered {'choices': None}, expected a list under 'choices'",
        "'label' has the value None, expected an object",
    ]
    assert all(reasons)


def test_an_unexpected_exception_skips_only_the_annotation_that_causes_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fault of a problem, such as another package's: no known annotation makes ours raise so."""
    # pytest-xdist cannot send a captured line with half a surrogate pair to its parent.
    caplog.set_level(logging.CRITICAL, "workers.examples")
    target = ImageClassification.target

    def fail_on_blue(self: ImageClassification, result: Any, data: Any) -> Any:
        if result[0]["value"]["choices"] == ["blue"]:
            raise RuntimeError("a \0 and a \ud800")
        return target(self, result, data)

    monkeypatch.setattr(ImageClassification, "target", fail_on_blue)
    tasks = [task for task in range(100) if not is_held_out(task, 20)]
    plan = plan_of([annotation(1, tasks[0], "blue"), annotation(2, tasks[1], "red")])
    assert [example.annotation_ids for example in plan.train] == [(2,)]
    assert plan.skipped == {1: r"RuntimeError: a \x00 and a \ud800"}


def test_an_annotation_of_an_unknown_task_is_skipped_with_the_reason() -> None:
    row = annotation(1, 1)
    row.task_id = None
    assert plan_of([row]).skipped == {1: "the event did not say which task was annotated"}


def test_annotations_from_before_the_tasks_data_changed_are_read_with_the_newest_data() -> None:
    """The question is about the newest data, so an older answer must fit that."""
    bound = bind('<View><List name="list" value="$items"/><Ranker name="order" toName="list"/></View>')
    task = next(i for i in range(100) if not is_held_out(i, 20))

    def ranked(annotation_id: int, *order: str, **changed: Any) -> Annotation:
        data = {"items": [{"id": name, "body": name} for name in sorted(order)]}
        result = [{"from_name": "order", "type": "ranker", "value": {"ranker": {"order": list(order)}}}]
        columns = {"task_data": data, "result": result, "completed_by": annotation_id, **changed}
        return annotation(annotation_id, task, **columns)

    several = [ranked(1, "c", "b", "a"), ranked(2, "b", "a"), ranked(3, "b", "a", task_data=None)]
    (example,) = make_plan(bound.bindings[0], bound.config, several, settings(), 1).train
    assert example.target.ranks == (1, 0)
    assert example.annotation_ids == (1, 2, 3)


@pytest.mark.parametrize(
    "fault",
    [
        PermissionError(13, "Permission denied"),
        OSError(36, "File name too long"),
        ValueError("embedded null byte"),
        struct.error("unpack requires a buffer of 4 bytes"),
        EOFError(),
        zlib.error("Error -3 while decompressing data"),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_file_that_raises_any_exception_skips_only_its_own_annotations(tmp_path: Path, fault: Exception) -> None:
    """Faults that depend on the file system, on the user, or on the version of a decoder."""
    torch.manual_seed(0)
    family = DualEncoder.load(DualEncoder.tiny(tmp_path), torch.device("cpu"), torch.float32, Settings())
    tasks = [task for task in range(100) if not is_held_out(task, 20)]
    urls = [data_url(picture) for picture in pictures(3)]
    rows = [annotation(task, task, task_data={"image": url}) for task, url in zip(tasks, urls, strict=False)]
    fetcher = Fetcher(Settings())

    def fetch(media: MediaRef) -> bytes:
        if media.url == urls[1]:
            raise fault
        return fetcher.fetch(media)

    prepared, unreadable = prepare(plan_of(rows).train, family, lambda media: media, fetch)
    assert [example.training_example.task_id for example in prepared] == [tasks[0], tasks[2]]
    assert list(unreadable) == [tasks[1]]
    assert unreadable[tasks[1]] == f"{type(fault).__name__}: {fault}"


BOXES_AND_MASKS = bind(
    '<View><Image name="image" value="$image"/>'
    '<RectangleLabels name="box" toName="image"><Label value="car"/></RectangleLabels>'
    '<BrushLabels name="mask" toName="image"><Label value="car"/></BrushLabels></View>'
)
CORNERS = (0.1, 0.1, 0.4, 0.4)
DRAWN_BOX = image_region("box", "image", "rectanglelabels", CORNERS, (9, 9), {"rectanglelabels": ["car"]})
DRAWN_MASK = picture_region(
    "mask", "image", "brushlabels", (2, 2), {"format": "rle", "rle": encode((0, 4)), "brushlabels": ["car"]}
)


TWO_LABELS = bind(
    '<View><Text name="text" value="$text"/><Labels name="place" toName="text"><Label value="city"/></Labels>'
    '<Labels name="tone" toName="text"><Label value="praise"/></Labels></View>'
)
LONDON, LOVELY = (
    labels(
        tag, "text", "labels", {"start": start, "end": start + 6, "text": "Lovely London"[start : start + 6]}, [of]
    )
    for tag, start, of in (("place", 7, "city"), ("tone", 0, "praise"))
)


def learned_targets(bound: BoundConfig, *results: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """By control tag the targets of the plan. Each result is that of a task."""
    data = {"image": "/1.png", "text": "Lovely London"}
    drawn = [
        annotation(number, number, result=list(result), task_data=data) for number, result in enumerate(results)
    ]
    plans = {
        problem.from_name: make_plan(problem, bound.config, drawn, settings(held_out_percent=0), seed=1)
        for problem in bound.bindings
    }
    for plan in plans.values():
        assert len(plan.train) + len(plan.skipped) == len(results)
    return {tag: [example.target for example in plan.train] for tag, plan in plans.items()}


@pytest.mark.parametrize(
    ("bound", "region", "other"),
    [
        (BOXES_AND_MASKS, DRAWN_BOX, DRAWN_MASK),
        (BOXES_AND_MASKS, DRAWN_MASK, DRAWN_BOX),
        (TWO_LABELS, LONDON, LOVELY),
        (TWO_LABELS, LOVELY, LONDON),
    ],
)
def test_a_control_tag_that_nobody_marks_with_is_not_taught_that_nothing_is_there(
    bound: BoundConfig, region: dict[str, Any], other: dict[str, Any]
) -> None:
    """Where it is used, annotations without any region teach it, and those with other regions alone do not."""
    tag, other_tag = region["from_name"], other["from_name"]
    targets = learned_targets(bound, [region], [], [region], [])
    assert (len(targets[tag]), len(targets[other_tag])) == (4, 0)
    targets = learned_targets(bound, [region], [], [region, other])
    assert (len(targets[tag]), len(targets[other_tag])) == (3, 2)
