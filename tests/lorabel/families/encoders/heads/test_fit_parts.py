"""Heads of videos on features in which the truth is known: which part decides, and what a missing part adds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from lorabel.contracts import (
    Content,
    Estimate,
    LabelScores,
    LabelsInput,
    LabelTarget,
    MediaRef,
    Modality,
    RatingInput,
    RatingTarget,
)
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import answer_with_head, check_head
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.parts import as_table, of_width, space_of_parts, with_parts

pytestmark = pytest.mark.slow

VIDEO = Content(modality=Modality.VIDEO, media=MediaRef(url="video"))
QUESTION = LabelsInput(contents=(VIDEO,), labels=(("zeta",), ("delta",)))
SPACE = space_of_parts(["frames", "sounds", "texts"])
WIDTHS = {Modality.VIDEO: 12, Modality.AUDIO: 16, Modality.TEXT: 8}


def tables(labels: Sequence[int], decides: Modality | None, lacking: Sequence[Modality] = ()) -> list[Array]:
    """Features at random; in the part that decides, the label moves them."""
    rng = np.random.default_rng(4)
    found = []
    for label in labels:
        rows = {}
        for part, width in WIDTHS.items():
            row = rng.normal(size=width) + 3.0
            row[0] += (8.0 if label else -8.0) * (part == decides)
            rows[part] = (row / np.linalg.norm(row)).astype(np.float32)
        found.append(as_table({part: row for part, row in rows.items() if part not in lacking}))
    return found


def example(table: Array, label: int) -> Example:
    question, rows = with_parts(QUESTION, table)
    return Example(question, rows, np.zeros(2, np.float32), LabelTarget((label,)))


def fitted(labels: Sequence[int], decides: Modality | None) -> LinearHead:
    head = fit_head([example(*pair) for pair in zip(tables(labels, decides), labels, strict=True)], SPACE)
    assert head is not None
    return head


def probabilities(head: LinearHead, table: Array) -> tuple[float, ...]:
    question, rows = with_parts(QUESTION, table)
    width = len(head.weights) // len(head.slots)
    check_head(head, question, SPACE, width)
    answer = answer_with_head(head, question, of_width(rows, width), np.zeros(2, np.float32))
    assert isinstance(answer, LabelScores)
    return answer.probabilities


LABELS = [int(label) for label in np.random.default_rng(0).permutation(np.arange(60) % 2)]


@pytest.mark.parametrize("decides", WIDTHS)
def test_the_part_that_decides_is_used_alone_or_with_others(decides: Modality) -> None:
    head = fitted(LABELS[:30], decides)
    assert decides in head.slots
    right = [
        int(np.argmax(probabilities(head, table))) == label
        for table, label in zip(tables(LABELS, decides)[30:], LABELS[30:], strict=True)
    ]
    assert np.mean(right) > 0.9


def test_where_nothing_decides_the_frames_answer() -> None:
    assert fitted(LABELS[:30], None).slots == (Modality.VIDEO,)


@pytest.mark.parametrize("decides", [Modality.VIDEO, None])
@pytest.mark.parametrize("having", [1, 3, 5])
def test_a_part_that_few_videos_have_is_not_chosen(having: int, decides: Modality | None) -> None:
    """If only one video has it, nothing can even be said of the part where it is tested."""
    labels = LABELS[:30]
    complete, bare = tables(labels, decides), tables(labels, decides, lacking=[Modality.AUDIO, Modality.TEXT])
    examples = [example(*pair) for pair in zip([*complete[:having], *bare[having:]], labels, strict=True)]
    head = fit_head(examples, SPACE)
    assert head is not None and head.slots == (Modality.VIDEO,)


def test_a_part_that_only_one_group_has_is_not_chosen() -> None:
    """All its videos are in one fold: where the part is tested, no head has learned of it."""
    labels, having = LABELS[:30], 12
    complete = tables(labels, Modality.VIDEO)
    bare = tables(labels, Modality.VIDEO, lacking=[Modality.AUDIO, Modality.TEXT])
    of_group = [
        replace(example(*pair), group="one") for pair in zip(complete[:having], labels[:having], strict=True)
    ]
    others = [example(*pair) for pair in zip(bare[having:], labels[having:], strict=True)]
    head = fit_head([*of_group, *others], SPACE)
    assert head is not None and head.slots == (Modality.VIDEO,)


def test_with_few_annotations_the_frames_answer() -> None:
    assert fitted(LABELS[:8], Modality.AUDIO).slots == (Modality.VIDEO,)


def test_a_missing_part_counts_as_the_mean_of_those_that_are_there() -> None:
    head = fitted(LABELS[:30], Modality.AUDIO)
    assert head.slots == (Modality.AUDIO,)
    heard = tables(LABELS[:30], Modality.AUDIO)
    mean = as_table({Modality.AUDIO: np.mean([table[1, 1:] for table in heard], axis=0)})
    for silent in tables([0, 1], Modality.AUDIO, lacking=[Modality.AUDIO]):
        assert probabilities(head, silent) == pytest.approx(probabilities(head, mean), abs=1e-4)
    sure = [probabilities(head, table)[1] for table in heard]
    assert min(sure) < 0.2 and max(sure) > 0.8


def test_the_order_of_examples_changes_no_bit() -> None:
    examples = [example(*pair) for pair in zip(tables(LABELS[:20], Modality.AUDIO), LABELS[:20], strict=True)]
    one, other = fit_head(examples, SPACE), fit_head(examples[::-1], SPACE)
    assert one is not None and other is not None
    assert one.to_bytes() == other.to_bytes() == LinearHead.from_bytes(one.to_bytes()).to_bytes()


def test_a_rating_is_learned_from_the_sound() -> None:
    question = RatingInput(contents=(VIDEO,), minimum=1, maximum=5)
    values = [1 + 4 * label for label in LABELS]
    rows = [with_parts(question, table) for table in tables(LABELS, Modality.AUDIO)]
    examples = [
        Example(asked, features, np.empty(0, np.float32), RatingTarget(value))
        for (asked, features), value in zip(rows[:30], values, strict=False)
    ]
    head = fit_head(examples, SPACE)
    assert head is not None and Modality.AUDIO in head.slots
    errors = []
    for (asked, features), value in zip(rows[30:], values[30:], strict=True):
        answer = answer_with_head(
            head, asked, of_width(features, len(head.weights) // len(head.slots)), np.empty(0, np.float32)
        )
        assert isinstance(answer, Estimate) and answer.value is not None
        errors.append(abs(answer.value - value))
    assert np.mean(errors) < 1.0
