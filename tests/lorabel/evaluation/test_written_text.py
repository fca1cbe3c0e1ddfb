"""ROUGE-L, token F1 and exact match on known pairs."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from lorabel.evaluation.written_text import Words, written_texts

# The sentences of Lin's paper (https://aclanthology.org/W04-1013, section 3.1): S2 and S3 against S1.
REFERENCE = "police killed the gunman"


@pytest.mark.parametrize(
    ("target", "text", "rouge_l", "token_f1", "exact"),
    [
        (REFERENCE, "police kill the gunman", 0.75, 0.75, 0),
        (REFERENCE, "the gunman kill police", 0.5, 0.75, 0),
        (REFERENCE, REFERENCE, 1.0, 1.0, 1),
        (REFERENCE, "Police killed the gunman!", 1.0, 1.0, 0),
        (REFERENCE, "", 0.0, 0.0, 0),
        ("a b", "c d", 0.0, 0.0, 0),
        ("Насос течёт сильно", "насос течёт", 0.8, 0.8, 0),
        ("泵漏水", "泵漏油", 2 / 3, 2 / 3, 0),
        ("P3; leak", "P3;leak", 1.0, 1.0, 0),
        ("👍", "👍", 1.0, 1.0, 1),
        ("👍", "👎", 0.0, 0.0, 0),
    ],
)
def test_known_pairs(target: str, text: str, rouge_l: float, token_f1: float, exact: int) -> None:
    values = written_texts([target], [text]).values
    figures = (values["rouge_l"], values["token_f1"], values["exact_match"])
    assert figures == pytest.approx((rouge_l, token_f1, exact))


def test_english_words_are_those_of_the_package() -> None:
    """The package stems nothing by default, so both tokenizers cut plain English alike."""
    pairs = [("The cat sat on the mat.", "A cat was on the mat"), ("One two, three four", "four three two one")]
    for target, text in pairs:
        expected = RougeScorer(["rougeL"]).score(target, text)["rougeL"].fmeasure
        assert written_texts([target], [text]).values["rouge_l"] == pytest.approx(expected)


def test_means_are_over_the_tasks() -> None:
    metrics = written_texts([REFERENCE, "yes"], [REFERENCE, ""])
    assert metrics.primary == "rouge_l"
    assert metrics.values == {"tasks": 2, "answered": 1, "rouge_l": 0.5, "exact_match": 0.5, "token_f1": 0.5}
    assert written_texts([], []).values["rouge_l"] == 0.0


def test_words_of_scripts_without_spaces_are_characters() -> None:
    assert Words().tokenize("Tokyo 東京2024 ok") == ["tokyo", "東", "京", "2024", "ok"]
