"""Which tasks a head learns from, where some cannot be learned together, or there are too many."""

from typing import Any

import pytest

from lorabel.database import project_heads, projects, task_features
from lorabel.database.adapter_folders import HEAD_FILE, heads_folder
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.labeling import regions
from lorabel.labeling.image_regions import image_region
from lorabel.problems.base import Sample
from lorabel.problems.segments_in_time import SegmentsInTime
from lorabel.problems.segments_of_series import SegmentsOfSeries
from lorabel.problems.timelines import Timelines
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT, deletion, put
from tests.workers.test_head_fitting import COLOURS, FITTERS, fit, fit_all, fitter_of, is_due, project, submitted
from tests.workers.test_head_versions import services as services
from workers import annotated_tasks
from workers.collect import apply_pending
from workers.services import Services


def test_tasks_that_go_to_two_families_are_computed_once_and_the_larger_part_is_learned(
    services: Services, model_server: FakeModelServer
) -> None:
    """Some lists to be ranked have pictures, others have texts only."""
    model_server.space, model_server.text_space = "pictures one", "texts one"
    put(services.store, *(ranked(number, has_picture=number < 5) for number in range(1, 13)))
    apply_pending(services.store)
    assert fit_all(fitter_of(services)) == 1 and not is_due(services)
    assert len(model_server.featured) == 12
    file = (services.adapter_folders.root / heads_folder(PROJECT, 1) / "rank" / HEAD_FILE).read_bytes()
    assert LinearHead.from_bytes(file).space == "texts one"


def ranked(number: int, *, has_picture: bool) -> dict[str, Any]:
    """Of two items the red one is first."""
    body = submitted(number, "")
    body["project"]["label_config"] = (
        '<View><List name="items" value="$items"/><Ranker name="rank" toName="items"/></View>'
    )
    picture = {"html": f'<img src="http://pictures.test/{number}.png"/>'} if has_picture else {}
    items = [{"id": colour, "body": f"{colour} {number}", **picture} for colour in COLOURS]
    body["task"]["data"] = {"items": items[:: 1 if number % 2 else -1]}
    body["annotation"]["result"] = [regions.ranker("rank", "items", {"rank": list(COLOURS)})]
    return body


def test_long_texts_do_not_fill_the_memory(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotated_tasks, "MOST_WORDS", 100)
    bodies = []
    for number, words in enumerate((40, 101, 40, 40), start=1):
        body = submitted(number, "")
        body["project"]["label_config"] = (
            '<View><Labels name="word" toName="text"><Label value="red"/></Labels>'
            '<Text name="text" value="$text"/></View>'
        )
        body["task"]["data"] = {"text": " ".join([f"red{number}", *["word"] * (words - 1)])}
        body["annotation"]["result"] = [regions.labels("word", "text", "labels", {"start": 0, "end": 4}, ["red"])]
        bodies.append(body)
    fit(services, *bodies)
    with services.store.read() as session:
        assert project_heads.of_project(session, PROJECT)["word"].annotation_ids == [3, 4]
        assert task_features.read(session, PROJECT, "word", range(9)).keys() == {3, 4}


def test_long_sounds_do_not_fill_the_memory(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sound of 1.5 s has seven windows."""
    monkeypatch.setattr(annotated_tasks, "MOST_WINDOWS", 14)
    fit(services, *(segmented(SegmentsInTime.SAMPLES[0], number) for number in range(1, 5)))
    with services.store.read() as session:
        assert project_heads.of_project(session, PROJECT)["part"].annotation_ids == [3, 4]
        assert task_features.read(session, PROJECT, "part", range(9)).keys() == {3, 4}


def test_of_long_sounds_what_is_read_counts(services: Services) -> None:
    bodies = [segmented(SegmentsInTime.SAMPLES[0], number) for number in range(1, 6)]
    for body in bodies:
        for region in body["annotation"]["result"]:
            region["original_length"] = 3600
    fit(services, *bodies)
    with services.store.read() as session:
        assert project_heads.of_project(session, PROJECT)["part"].annotation_ids == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("sample", "most", "learned"),
    [
        # There must be room for 20 windows, and each video has 7. After three of them 19 are left.
        pytest.param(Timelines.SAMPLES[0], 40, [7, 8, 9], id="videos"),
        # There must be room for 4, and each series has less than one. After five of them 3 are left.
        pytest.param(SegmentsOfSeries.SAMPLES[0], 8, [5, 6, 7, 8, 9], id="series"),
    ],
)
def test_recordings_of_unknown_length_count_as_long_as_they_are(
    services: Services,
    model_server: FakeModelServer,
    monkeypatch: pytest.MonkeyPatch,
    sample: Sample,
    most: int,
    learned: list[int],
) -> None:
    """Nothing is computed in vain, and the head is the same after the worker has started again."""
    monkeypatch.setattr(annotated_tasks, "MOST_WINDOWS", most)
    fit(services, *(segmented(sample, number) for number in range(1, 10)))
    assert learned_from(services) == learned and len(model_server.rows) == len(learned)
    FITTERS.clear()
    fit(services, deletion(1))
    assert learned_from(services) == learned and len(model_server.rows) == len(learned)


def test_more_than_41_short_videos_are_learned_from(services: Services, model_server: FakeModelServer) -> None:
    """So many of 120 s have as many windows as may be in memory. Those in the test have 1.5 s."""
    bodies = [segmented(Timelines.SAMPLES[0], number) for number in range(1, 61)]
    fit(services, *bodies)
    assert learned_from(services) == list(range(1, 61)) and len(model_server.rows) == 60


def test_a_head_learns_from_two_recordings_however_long_they_are(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotated_tasks, "MOST_WINDOWS", 10)
    fit(services, *(segmented(Timelines.SAMPLES[0], number) for number in range(1, 4)))
    assert learned_from(services) == [2, 3]


def segmented(sample: Sample, number: int) -> dict[str, Any]:
    body = submitted(number, "")
    body["project"]["label_config"] = sample.label_config
    body["task"]["data"] = dict.fromkeys(sample.data, f"http://recordings.test/{number}.wav")
    body["annotation"]["result"] = [dict(region) for region in sample.result or []]
    return body


def learned_from(services: Services) -> list[int]:
    with services.store.read() as session:
        (head,) = project_heads.of_project(session, PROJECT).values()
        return list(head.annotation_ids)


def boxed(number: int, tag: str = "box", label: str = "red") -> dict[str, Any]:
    body = submitted(number, "")
    body["project"]["label_config"] = (
        f'<View><Image name="image" value="$image"/><RectangleLabels name="{tag}" toName="image">'
        '<Label value="red"/></RectangleLabels></View>'
    )
    value = {"rectanglelabels": [label]}
    corners = (0.1, 0.1, 0.4, 0.4)
    body["annotation"]["result"] = [image_region(tag, "image", "rectanglelabels", corners, (9, 9), value)]
    return body


def featured_tasks(services: Services, tag: str) -> set[int]:
    with services.store.read() as session:
        return set(task_features.read(session, PROJECT, tag, range(99)))


def test_features_of_boxes_that_no_fit_uses_any_more_are_deleted(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture's take 60 kB and more: of tasks without an annotation or beyond the limit, of other tags."""
    monkeypatch.setattr(annotated_tasks, "MOST_TEXTS", 3)
    fit(services, *(boxed(number) for number in range(1, 4)))
    assert featured_tasks(services, "box") == {1, 2, 3}
    fit(services, *(boxed(number) for number in range(4, 6)))
    assert featured_tasks(services, "box") == {3, 4, 5}
    fit(services, deletion(5))
    assert featured_tasks(services, "box") == {3, 4}, "those of task 2 are still in memory"
    projects.upsert(services.store, PROJECT, label_config=boxed(6, "frame")["project"]["label_config"])
    fit(services, boxed(6, "frame"))
    assert featured_tasks(services, "box") == set() and featured_tasks(services, "frame") == {6}


def test_half_an_emoji_in_one_task_leaves_the_others_their_head(services: Services) -> None:
    body = submitted(9, "red")
    body["task"]["data"] = {"image": "http://pictures.test/broken\ud83d\0.png"}
    fit(services, submitted(1, "red"), submitted(2, "blue"), body)
    assert project(services).served_version == "p1.v0.h1" and not is_due(services)
