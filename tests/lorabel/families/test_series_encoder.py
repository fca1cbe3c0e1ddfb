"""Segments of drawn series, found by a head that was fitted on a few others."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lorabel.content_formats import SeriesFormat
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.evaluation.series_metrics import series_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.series.windows import MOST_LEARNED
from lorabel.families.series_encoder import SeriesEncoder
from lorabel.media.fetching import digest
from lorabel.series_contracts import SeriesFeaturesInput, SeriesInput, SeriesScores, SeriesTarget
from lorabel.settings import Settings
from tests.series_scenes import BURST, COLUMNS, NAMES, SPIKE, STEP, DrawnSeries, drawn_series

FORMAT = SeriesFormat(channels=COLUMNS, time_column="time")
SERIES = Content(modality=Modality.SERIES, media=MediaRef(url="x"), series_format=FORMAT)
QUESTION = SeriesInput(contents=(SERIES,), labels=tuple((name,) for name in NAMES))
LEARNED, UNSEEN = range(5000, 5010), range(5100, 5110)


@pytest.fixture(scope="module")
def family() -> SeriesEncoder:
    return load()


@pytest.fixture(scope="module")
def examples(family: SeriesEncoder) -> list[Example]:
    """The series of LEARNED as annotators mark them."""
    return [example(family, drawn_series(number)) for number in LEARNED]


@pytest.fixture(scope="module")
def head(family: SeriesEncoder, examples: list[Example]) -> LinearHead:
    fitted = fit_head(examples, family.space)
    assert fitted is not None
    return fitted


def load(**settings: Any) -> SeriesEncoder:
    return SeriesEncoder.load(
        SeriesEncoder.default_source, torch.device("cpu"), torch.float32, Settings(**settings)
    )


def prepare(family: SeriesEncoder, file: bytes) -> Any:
    return family.prepare(QUESTION, lambda _: file)


def example(family: SeriesEncoder, drawn: DrawnSeries, labels: Sequence[int] = (STEP, BURST, SPIKE)) -> Example:
    target = SeriesTarget(tuple(event for event in drawn.events if event[2] in labels))
    asked = family.for_features(prepare(family, drawn.csv()), target)
    (features,) = family.predict([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    return Example.of(QUESTION, features, target)  # type: ignore[arg-type]


def answer(family: SeriesEncoder, file: bytes, head: LinearHead | None = None) -> SeriesScores:
    (output,) = family.predict(
        [family.with_head(prepare(family, file), head)], [None], NO_BATCH_ADAPTERS, FeatureCache({})
    )
    assert isinstance(output, SeriesScores)
    return output


def figures_of(outputs: Sequence[SeriesScores], drawn: Sequence[DrawnSeries]) -> dict[str, Any]:
    predicted = [[(found.start, found.end, found.label) for found in output.segments] for output in outputs]
    steps = [output.step for output in outputs]
    return series_metrics([each.events for each in drawn], predicted, steps, NAMES).values


def test_a_head_finds_in_unseen_series_what_annotators_marked_in_ten_others(
    family: SeriesEncoder, head: LinearHead
) -> None:
    drawn = [drawn_series(number) for number in UNSEEN]
    values = figures_of([answer(family, each.csv(), head) for each in drawn], drawn)
    assert values["f1"] > 0.8, values
    assert values["boundary_error_steps"] < 4
    assert min(figures["f1"] for figures in values["per_class"].values()) > 0.65, values


def test_before_a_head_was_fitted_nothing_is_said(family: SeriesEncoder) -> None:
    output = answer(family, drawn_series(1).csv())
    assert output.segments == () and output.no_segment_probability == 0.0


def test_a_label_of_instants_is_found_as_instants_and_others_as_ranges(
    family: SeriesEncoder, head: LinearHead
) -> None:
    segments = [found for number in UNSEEN for found in answer(family, drawn_series(number).csv(), head).segments]
    assert {found.start == found.end for found in segments if found.label == SPIKE} == {True}
    assert {found.start == found.end for found in segments if found.label != SPIKE} == {False}


def test_boundaries_are_times_of_points(family: SeriesEncoder, head: LinearHead) -> None:
    drawn = drawn_series(UNSEEN[0])
    times = {float(f"{moment:.3f}") for moment in drawn.times}
    segments = answer(family, drawn.csv(), head).segments
    assert segments and {moment for found in segments for moment in (found.start, found.end)} <= times


def test_the_order_of_the_annotations_changes_no_bit(
    family: SeriesEncoder, examples: list[Example], head: LinearHead
) -> None:
    again = fit_head(examples[::-1], family.space)
    assert again is not None and again.to_bytes() == head.to_bytes()
    assert LinearHead.from_bytes(head.to_bytes()).slots == ("range", "range", "instant")


def test_a_head_needs_two_series_and_a_segment(family: SeriesEncoder, examples: list[Example]) -> None:
    assert fit_head(examples[:1], family.space) is None
    assert fit_head([examples[0], examples[0]], family.space) is None
    nothing = [example(family, drawn_series(number), ()) for number in LEARNED[:2]]
    assert fit_head(nothing, family.space) is None


def test_a_series_has_a_reason_for_good_if_all_that_is_marked_lies_outside_it(family: SeriesEncoder) -> None:
    """As if the file had been replaced: nothing would be learned to be everywhere."""
    file, cache = drawn_series(1).csv(), FeatureCache({FEATURES: 10**7})
    outside = SeriesFeaturesInput(
        contents=QUESTION.contents, labels=QUESTION.labels, segments=((-9e9, -8e9, 0), (8e9, 9e9, 1))
    )
    with pytest.raises(UnreadableError, match="2 annotated segments lie outside the series") as error:
        family.prepare(outside, lambda _: file)
    assert error.value.is_permanent
    family.predict([prepare(family, file)], [None], NO_BATCH_ADAPTERS, cache)
    with pytest.raises(UnreadableError, match="outside the series"):
        family.recall(outside, lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)


def test_a_label_that_nobody_has_used_is_not_found(family: SeriesEncoder) -> None:
    bursts = [example(family, drawn_series(number), [BURST]) for number in LEARNED[:4]]
    fitted = fit_head(bursts, family.space)
    found = [each for number in UNSEEN for each in answer(family, drawn_series(number).csv(), fitted).segments]
    assert {each.label for each in found} == {BURST}


def test_a_series_is_recalled_without_its_file_and_not_with_other_channels(
    family: SeriesEncoder, head: LinearHead
) -> None:
    file, cache = drawn_series(UNSEEN[0]).csv(), FeatureCache({FEATURES: 10**7})

    def recalled(question: SeriesInput = QUESTION) -> Any:
        return family.recall(question, lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)

    assert recalled() is None
    family.predict([prepare(family, file)], [None], NO_BATCH_ADAPTERS, cache)
    with_head = family.answer(family.with_head(recalled(), head), None, NO_BATCH_ADAPTERS, cache)
    assert with_head == answer(family, file, head)
    other = SERIES.model_copy(update={"series_format": FORMAT.model_copy(update={"channels": ("load",)})})
    assert recalled(QUESTION.model_copy(update={"contents": (other,)})) is None


def test_json_in_the_task_is_read_as_the_file(family: SeriesEncoder, head: LinearHead) -> None:
    drawn = drawn_series(UNSEEN[0])
    rows = [line.split(",") for line in drawn.csv().decode().split()]
    columns = zip(*rows, strict=True)
    table = {name: [float(cell) if cell else None for cell in cells] for name, *cells in columns}
    content = Content(modality=Modality.SERIES, text=json.dumps(table), series_format=FORMAT)
    prepared = family.prepare(QUESTION.model_copy(update={"contents": (content,)}), lambda _: b"")
    output = family.answer(family.with_head(prepared, head), None, NO_BATCH_ADAPTERS, FeatureCache({}))
    assert output == answer(family, drawn.csv(), head)


def test_a_head_of_other_channels_does_not_fit(family: SeriesEncoder, head: LinearHead) -> None:
    one_channel = SERIES.model_copy(update={"series_format": FORMAT.model_copy(update={"channels": ("load",)})})
    question = QUESTION.model_copy(update={"contents": (one_channel,)})
    prepared = family.prepare(question, lambda _: drawn_series(1).csv())
    with pytest.raises(UnreadableError, match="fit it again"):
        family.with_head(prepared, head)


def test_a_long_series_is_answered_and_learned_from_in_a_limited_number_of_windows(
    family: SeriesEncoder, head: LinearHead
) -> None:
    drawn = drawn_series(7, points=12_000)
    long = example(family, drawn)
    assert len(long.features) <= MOST_LEARNED
    output = answer(family, drawn.csv(), head)
    assert all(drawn.times[0] <= found.start <= found.end <= drawn.times[-1] + 1 for found in output.segments)


def test_series_of_odd_numbers_are_answered_or_have_a_reason(family: SeriesEncoder, head: LinearHead) -> None:
    random = np.random.default_rng(0)
    cells = ["1", "2", "-3.5", "", "nan", "inf", "1e99", "-1e99", "1e-300", "0", " 7 ", "x"]
    steps = [0.0, 1.0, 1e-12, 1e50, 0.3]
    answered = 0
    for _ in range(150):
        points = int(random.integers(1, 60))
        times = np.cumsum(random.choice(steps, points)).tolist()
        odd = random.choice(cells[: int(random.integers(2, len(cells) + 1))], (points, 2))
        rows = [f"{at!r},{load},{flow}" for at, (load, flow) in zip(times, odd, strict=True)]
        try:
            output = answer(family, "\n".join(["time,load,flow", *rows]).encode(), head)
        except UnreadableError as error:
            assert error.is_permanent
        else:
            answered += 1
            assert {each for found in output.segments for each in (found.start, found.end)} <= set(times)
    assert answered > 75


def test_a_file_for_which_there_is_no_memory_has_a_reason() -> None:
    with pytest.raises(UnreadableError, match="MEDIA_DECODE_MB"):
        prepare(load(media_decode_mb=256), drawn_series(1).csv() + b"\n" * 40_000_000)


def test_too_many_points_and_an_unknown_source_have_a_reason() -> None:
    with pytest.raises(UnreadableError, match="SERIES_MAX_POINTS"):
        prepare(load(series_max_points=100), drawn_series(1).csv())
    with pytest.raises(SettingsError, match="MODEL_SERIES_ENCODER='other'"):
        SeriesEncoder.load("other", torch.device("cpu"), torch.float32, Settings())


def test_gaps_and_uneven_steps_do_not_hide_an_event(family: SeriesEncoder, head: LinearHead) -> None:
    """The same series with every third point missing."""
    drawn = [drawn_series(number) for number in UNSEEN]
    kept = np.arange(600) % 3 > 0
    thinned = [
        DrawnSeries(
            each.times[kept], each.values[kept], tuple(event for event in each.events if event[2] != SPIKE)
        )
        for each in drawn
    ]
    values = figures_of([answer(family, each.csv(), head) for each in thinned], thinned)
    assert values["per_class"]["step"]["f1"] > 0.6, values
