"""How near written texts are to the right ones: exact match, token F1 and ROUGE-L.

Token F1 is that of SQuAD (https://arxiv.org/abs/1606.05250), ROUGE-L the F-measure of
https://aclanthology.org/W04-1013 as the package `rouge-score` computes it. Both compare words: `Words` says what a
word is in any language, since the package's own tokenizer knows only the letters a to z.
"""

import re
from collections import Counter
from collections.abc import Sequence

from lorabel.evaluation.metrics import Metrics

# A word; of scripts that put no spaces between words (Thai, Lao, Khmer, kana, Chinese), each character.
_UNSPACED = r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_WORD = re.compile(rf"{_UNSPACED}|(?:(?!{_UNSPACED})[^\W_])+")


class Words:
    """The tokenizer of the metrics, in the form that `rouge-score` takes."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text without regard to case; a text of other characters only is one word."""
        return _WORD.findall(text.casefold()) or [text.strip()]


def written_texts(targets: Sequence[str], texts: Sequence[str]) -> Metrics:
    """Means over the tasks of the metrics above; an empty text counts as 0.

    `exact_match` compares all characters, spaces at both ends left out. ROUGE-L, which regards the order of words,
    decides about promotion.
    """
    # A second to import, and only evaluation needs it.
    from rouge_score.rouge_scorer import RougeScorer

    words = Words()
    scorer = RougeScorer(["rougeL"], tokenizer=words)
    pairs = list(zip(targets, texts, strict=True))
    exact = [target.strip() == text.strip() for target, text in pairs]
    f1 = [
        _token_f1(words.tokenize(target), words.tokenize(text)) if text.strip() else 0.0 for target, text in pairs
    ]
    rouge = [scorer.score(target, text)["rougeL"].fmeasure if text.strip() else 0.0 for target, text in pairs]
    figures: dict[str, Sequence[float]] = {"rouge_l": rouge, "exact_match": exact, "token_f1": f1}
    means = {name: sum(values) / len(values) if values else 0.0 for name, values in figures.items()}
    answered = sum(bool(text.strip()) for text in texts)
    return Metrics("rouge_l", {"tasks": len(targets), "answered": answered, **means})


def _token_f1(target: Sequence[str], text: Sequence[str]) -> float:
    common = (Counter(target) & Counter(text)).total()
    return 2 * common / (len(target) + len(text))
