"""The head of lines of text, on receipts whose lines are taken as they were drawn."""

from dataclasses import replace

import numpy as np
import pytest

from lorabel.errors import UnreadableError
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.text_lines.features import FEATURE_COUNT, line_features
from lorabel.families.text_lines.fit_lines import AnnotatedPicture, fit_lines
from lorabel.families.text_lines.learned_lines import learned_lines
from lorabel.space_contracts import TextLine, TextLinesTarget
from tests.receipts import LABELS, draw_receipt


def picture(number: int, *, leaves_out: frozenset[str] = frozenset()) -> AnnotatedPicture:
    """A receipt that was read without fault, and whose annotators leave out the lines without a label."""
    drawn = draw_receipt(number).lines
    lines = tuple(TextLine(corners=line.corners, text=line.text, probability=0.98) for line in drawn)
    target = tuple(
        (line.corners, line.text, None if line.label is None else LABELS.index(line.label))
        for line in drawn
        if line.text not in leaves_out
    )
    return AnnotatedPicture(lines, TextLinesTarget(target))


def labels_of(head: LinearHead, annotated: AnnotatedPicture) -> list[int | None]:
    lines = learned_lines(head, annotated.lines)
    best = [int(np.argmax(line.label_probabilities)) for line in lines]
    return [column - 1 if column else None for column in best]


def test_labels_of_unseen_receipts_are_learned_from_a_few() -> None:
    head = fit_lines([picture(number) for number in range(6)], len(LABELS))
    assert head is not None
    right = total = 0
    for number in range(100, 120):
        unseen = picture(number)
        truth = [label for _, _, label in unseen.target.lines]
        answered = labels_of(head, unseen)
        assert len(answered) == len(truth), "no line is left out"
        right, total = right + sum(a == b for a, b in zip(answered, truth, strict=True)), total + len(truth)
    assert right / total > 0.95


def test_lines_that_annotators_leave_out_are_left_out() -> None:
    thanks = frozenset({"Thank you", "See you soon", "Have a nice day"})
    head = fit_lines([picture(number, leaves_out=thanks) for number in range(6)], len(LABELS))
    assert head is not None
    for number in range(100, 110):
        texts = {line.text for line in learned_lines(head, picture(number).lines)}
        assert not texts & thanks and "TOTAL" in texts


def test_lines_where_nobody_knows_what_is_drawn_are_not_left_out() -> None:
    """As where the label of a line is gone from the label config."""
    thanks = frozenset({"Thank you", "See you soon", "Have a nice day"})
    drawn = [picture(number, leaves_out=thanks) for number in range(6)]
    unknown = [
        replace(
            each,
            target=replace(each.target, unknown=tuple(line.corners for line in each.lines if line.text in thanks)),
        )
        for each in drawn
    ]
    head = fit_lines(unknown, len(LABELS))
    assert head is not None
    for number in range(100, 110):
        lines = picture(number).lines
        assert len(learned_lines(head, lines)) == len(lines)


def test_two_annotated_pictures_are_enough_to_begin() -> None:
    head = fit_lines([picture(0), picture(1)], len(LABELS))
    assert head is not None
    right = total = 0
    for number in range(100, 110):
        truth = [label for _, _, label in picture(number).target.lines]
        answered = labels_of(head, picture(number))
        assert len(answered) == len(truth), "no line is left out"
        right, total = right + sum(a == b for a, b in zip(answered, truth, strict=True)), total + len(truth)
    assert right / total > 0.75


def test_lines_without_labels_and_lines_with_the_same_label() -> None:
    drawn = [picture(number) for number in range(3)]
    unlabeled = [
        replace(
            each, target=TextLinesTarget(tuple((corners, text, None) for corners, text, _ in each.target.lines))
        )
        for each in drawn
    ]
    head = fit_lines(unlabeled, 1)
    assert head is not None and set(labels_of(head, drawn[0])) == {None}, "people give no line the only label"
    head = fit_lines(unlabeled, 0)
    assert head is not None and head.weights.shape == (FEATURE_COUNT, 2)
    assert [line.label_probabilities for line in learned_lines(head, drawn[0].lines)] == [()] * len(drawn[0].lines)
    same = [
        replace(each, target=TextLinesTarget(tuple((corners, text, 1) for corners, text, _ in each.target.lines)))
        for each in drawn
    ]
    head = fit_lines(same, 2)
    assert head is not None and set(labels_of(head, drawn[0])) == {1}


def test_nothing_is_learned_where_no_annotated_line_was_read() -> None:
    annotated = picture(0)
    assert fit_lines([replace(annotated, lines=())], 4) is None
    assert fit_lines([replace(annotated, target=TextLinesTarget(()))], 4) is None


def test_lines_that_nobody_has_written_teach_their_labels_alone() -> None:
    drawn = [picture(number) for number in range(3)]
    unwritten = [
        replace(
            each, target=TextLinesTarget(tuple((corners, "", label) for corners, _, label in each.target.lines))
        )
        for each in drawn
    ]
    head, usual = fit_lines(unwritten, len(LABELS)), fit_lines(drawn, len(LABELS))
    assert head is not None and usual is not None
    assert np.array_equal(head.weights, usual.weights)
    assert head.lexicon is not None and (head.lexicon.words, head.lexicon.errors_before) == ((), 0)


def test_the_part_of_an_annotated_line_is_not_one_that_is_left_out() -> None:
    whole = (0.1, 0.1, 0.9, 0.2)
    parts = (
        TextLine(corners=(0.1, 0.1, 0.7, 0.2), text="Bread"),
        TextLine(corners=(0.8, 0.1, 0.9, 0.2), text="1.20"),
    )
    head = fit_lines([AnnotatedPicture(parts, TextLinesTarget(((whole, "Bread 1.20", 0),)))], 1)
    assert head is not None
    assert len(learned_lines(head, parts)) == 2


def test_a_head_with_its_lexicon_survives_its_file() -> None:
    head = fit_lines([picture(number) for number in range(3)], len(LABELS))
    assert head is not None and head.lexicon is not None and "TOTAL" in head.lexicon.words
    file = head.to_bytes()
    again = LinearHead.from_bytes(file)
    assert again.lexicon == head.lexicon and again.to_bytes() == file
    with pytest.raises(UnreadableError, match="lexicon"):
        LinearHead.from_bytes(file.replace(b"errors_before", b"errors_befora"))


def test_features_of_no_line_and_of_odd_ones() -> None:
    assert line_features(()).shape == (0, FEATURE_COUNT)
    odd = [TextLine(corners=(0.0, 0.0, 1.0, 1.0), text=text) for text in ("", "\ud800", "🧾" * 3000, "٣٤", "a")]
    features = line_features(odd)
    assert features.shape == (5, FEATURE_COUNT) and np.isfinite(features).all() and np.abs(features).max() <= 1.5
