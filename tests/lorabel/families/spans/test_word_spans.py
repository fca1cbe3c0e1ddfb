import pytest
import torch

from lorabel.contracts import SpanTarget
from lorabel.families.spans.word_spans import span_losses, span_scores

WORDS = [(0, 3), (4, 12), (13, 17), (18, 24)]


def logits_of(tags: list[tuple[int, int] | None], sure: float = 8.0) -> torch.Tensor:
    """(words, 2, 2): per word the part (0 begins, 1 goes on) and label, or None."""
    made = torch.full((len(tags), 2, 2), -sure)
    for place, tag in enumerate(tags):
        if tag is not None:
            made[place][tag] = sure
    return made


def spans(logits: torch.Tensor) -> list[tuple[int, int, int]]:
    return [(span.start, span.end, span.label) for span in span_scores(logits, WORDS).spans]


def test_words_that_go_on_with_a_label_are_one_span_and_one_that_begins_is_another() -> None:
    assert spans(logits_of([(0, 0), (1, 0), None, (0, 1)])) == [(0, 12, 0), (18, 24, 1)]
    assert spans(logits_of([(0, 0), (0, 0), (1, 1), None])) == [(0, 3, 0), (4, 12, 0), (13, 17, 1)]


def test_a_span_is_as_probable_as_its_words_on_average_and_a_doubtful_word_is_none() -> None:
    logits = logits_of([(0, 0), None, None, None])
    logits[3, 0, 1] = -0.1
    (span,) = span_scores(logits, WORDS).spans
    assert (span.start, span.end) == (0, 3) and span.probability == pytest.approx(1.0, abs=1e-2)
    logits[3, 0, 1] = 0.1
    assert [one.probability > 0.5 for one in span_scores(logits, WORDS).spans] == [True, True]


def test_without_spans_the_least_certain_word_says_how_sure_that_is() -> None:
    logits = torch.full((4, 2, 2), -20.0)
    logits[2, 0, 0] = -1.0
    found = span_scores(logits, WORDS)
    assert found.spans == ()
    assert found.no_span_probability == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()), abs=1e-4)
    assert span_scores(torch.zeros(0, 2, 2), []).no_span_probability == 1.0


def test_the_loss_is_least_for_the_target_and_each_text_has_its_own() -> None:
    target = SpanTarget(((0, 12, 0), (18, 24, 1)))
    right = span_losses(logits_of([(0, 0), (1, 0), None, (0, 1)]), WORDS, target)
    wrong = span_losses(logits_of([(0, 1), (1, 0), None, (0, 1)]), WORDS, target)
    assert right < 1e-3 < wrong
    assert right.shape == ()


def test_a_word_is_in_the_span_that_has_most_of_it_and_shared_by_spans_that_have_as_much() -> None:
    most = SpanTarget(((0, 6, 1), (4, 12, 0)))
    assert span_losses(logits_of([(0, 1), (0, 0), None, None]), WORDS, most) < 1e-3
    both = SpanTarget(((0, 3, 0), (0, 3, 1)))
    even = logits_of([None, None, None, None])
    even[0, 0] = 8.0
    assert span_losses(even, WORDS, both) < span_losses(logits_of([(0, 0), None, None, None]), WORDS, both)


def test_few_words_in_spans_weigh_more_than_many_outside() -> None:
    many = [(i, i + 1) for i in range(0, 200, 2)]
    silent = torch.full((100, 2, 2), -8.0)
    assert span_losses(silent, many, SpanTarget(((0, 1, 0),))) > 8.0 / 100 * 5
