import pytest
import torch

from lorabel.contracts import SpanTarget
from lorabel.families.spans.word_spans import span_losses, span_scores

WORDS = [(0, 3), (4, 12), (13, 17), (18, 24)]


def logits_of(tags: list[tuple[int, int] | None], certainty: float = 8.0) -> torch.Tensor:
    """(words, 2, 2). A tag is (0 for BEGINS or 1 for GOES_ON, label), or None for a word in no span."""
    logits = torch.full((len(tags), 2, 2), -certainty)
    for word, tag in enumerate(tags):
        if tag is not None:
            logits[word][tag] = certainty
    return logits


def spans(logits: torch.Tensor) -> list[tuple[int, int, int]]:
    return [(span.start, span.end, span.label) for span in span_scores(logits, WORDS).spans]


def test_words_that_go_on_extend_a_span_and_a_word_that_begins_starts_another() -> None:
    assert spans(logits_of([(0, 0), (1, 0), None, (0, 1)])) == [(0, 12, 0), (18, 24, 1)]
    assert spans(logits_of([(0, 0), (0, 0), (1, 1), None])) == [(0, 3, 0), (4, 12, 0), (13, 17, 1)]


def test_a_spans_probability_is_the_mean_of_its_words_and_a_word_below_one_half_begins_none() -> None:
    logits = logits_of([(0, 0), None, None, None])
    logits[3, 0, 1] = -0.1
    (span,) = span_scores(logits, WORDS).spans
    assert (span.start, span.end) == (0, 3) and span.probability == pytest.approx(1.0, abs=1e-2)
    logits[3, 0, 1] = 0.1
    assert [span.probability > 0.5 for span in span_scores(logits, WORDS).spans] == [True, True]


def test_the_probability_of_no_span_is_that_of_the_least_certain_word() -> None:
    logits = torch.full((4, 2, 2), -20.0)
    logits[2, 0, 0] = -1.0
    scores = span_scores(logits, WORDS)
    assert scores.spans == ()
    assert scores.no_span_probability == pytest.approx(1 / (1 + torch.tensor(-1.0).exp().item()), abs=1e-4)
    assert span_scores(torch.zeros(0, 2, 2), []).no_span_probability == 1.0


def test_the_loss_is_a_scalar_that_is_least_for_the_target() -> None:
    target = SpanTarget(((0, 12, 0), (18, 24, 1)))
    right_loss = span_losses(logits_of([(0, 0), (1, 0), None, (0, 1)]), WORDS, target)
    wrong_loss = span_losses(logits_of([(0, 1), (1, 0), None, (0, 1)]), WORDS, target)
    assert right_loss < 1e-3 < wrong_loss
    assert right_loss.shape == ()


def test_a_word_belongs_to_the_span_that_covers_most_of_it() -> None:
    target = SpanTarget(((0, 6, 1), (4, 12, 0)))
    assert span_losses(logits_of([(0, 1), (0, 0), None, None]), WORDS, target) < 1e-3


def test_a_word_is_shared_by_spans_that_cover_as_much_of_it() -> None:
    target = SpanTarget(((0, 3, 0), (0, 3, 1)))
    shared = logits_of([None, None, None, None])
    shared[0, 0] = 8.0
    not_shared = logits_of([(0, 0), None, None, None])
    assert span_losses(shared, WORDS, target) < span_losses(not_shared, WORDS, target)


def test_a_rare_word_in_a_span_weighs_more_than_each_of_many_words_outside() -> None:
    words = [(start, start + 1) for start in range(0, 200, 2)]
    outside_logits = torch.full((100, 2, 2), -8.0)
    assert span_losses(outside_logits, words, SpanTarget(((0, 1, 0),))) > 8.0 / 100 * 5
