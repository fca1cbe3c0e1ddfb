"""How near written texts are to the right ones: exact match, token F1, ROUGE-L, BLEU, METEOR and VQA accuracy.

Where several annotators have answered, a text counts as near as it is to the nearest of their answers.

- Token F1: that of SQuAD (https://arxiv.org/abs/1606.05250).
- ROUGE-L: the F-measure of https://aclanthology.org/W04-1013, by the package `rouge-score`.
- BLEU: of all tasks together, by the package `sacrebleu` with its own tokenizer (`13a`; characters where words are
  written without spaces), divided by 100. Texts of fewer than four words are compared by what n-grams they have.
- METEOR: by the package `nltk`, where its WordNet is on this machine (`python -m nltk.downloader wordnet`); else
  it is left out, since without synonyms it would be another figure. Its stems and synonyms are English.
- VQA accuracy (https://arxiv.org/abs/1505.00468): of tasks that several annotators have answered. An answer that
  three others gave is right; of fewer than four annotators, an answer that all others gave.

ROUGE-L, token F1, METEOR and VQA accuracy compare words: `Words` says what a word is in any language.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from lorabel.evaluation.metrics import Metrics

# Of scripts that put no spaces between words (Thai, Lao, Khmer, kana, Chinese), each character is a word.
UNSPACED = r"[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
_WORD = re.compile(rf"{UNSPACED}|(?:(?!{UNSPACED})[^\W_])+")
# What VQA's evaluation takes for the same.
ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBER_WORDS)}}
AGREEING = 3
Figure = Callable[[str, str], float]


class Words:
    """The tokenizer of the metrics, in the form that `rouge-score` takes."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text without regard to case; a text of other characters only is one word."""
        return _WORD.findall(text.casefold()) or [text.strip()]


WORDS = Words()


def written_texts(
    targets: Sequence[str], texts: Sequence[str], others: Sequence[Sequence[str]] | None = None
) -> Metrics:
    """Means over the tasks of the metrics above; an empty text counts as 0.

    `exact_match` compares all characters, spaces at both ends left out. ROUGE-L, which regards the order of words,
    decides about promotion.

    Args:
        others: for each task, what annotators other than that of the target have written.
    """
    of_others = others or [()] * len(targets)
    answers = [(target, *more) for target, more in zip(targets, of_others, strict=True)]
    figures: dict[str, Figure] = {"rouge_l": _rouge_l(), "exact_match": _exact_match, "token_f1": _token_f1}
    meteor = _meteor()
    if meteor is not None:
        figures["meteor"] = meteor
    values: dict[str, float] = {"tasks": len(targets), "answered": sum(bool(text.strip()) for text in texts)}
    for name, figure in figures.items():
        values[name] = _mean([_nearest(figure, *pair) for pair in zip(answers, texts, strict=True)])
    values["bleu"] = _bleu(answers, texts)
    several = [pair for pair in zip(answers, texts, strict=True) if len(pair[0]) > 1]
    if several:
        values["vqa_accuracy"] = _mean([vqa_accuracy(*pair) for pair in several])
    return Metrics("rouge_l", values)


def rouge_l(target: str, text: str) -> float:
    """ROUGE-L of one text, in [0, 1]."""
    return _nearest(_rouge_l(), [target], text)


def vqa_accuracy(answers: Sequence[str], text: str) -> float:
    """VQA accuracy of one text: the mean over the annotators, each of whom is left out once."""
    answer, given = _vqa_answer(text), [_vqa_answer(answer) for answer in answers]
    needed = min(AGREEING, len(given) - 1)
    counts = [given.count(answer) - (each == answer) for each in given]
    return _mean([min(1.0, count / needed) for count in counts])


def _vqa_answer(text: str) -> tuple[str, ...]:
    words = WORDS.tokenize(text)
    return tuple(NUMBERS.get(word, word) for word in words if word not in ARTICLES or len(words) == 1)


def _nearest(figure: Figure, answers: Sequence[str], text: str) -> float:
    return max(figure(answer, text) for answer in answers) if text.strip() else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _exact_match(answer: str, text: str) -> float:
    return float(answer.strip() == text.strip())


def _token_f1(answer: str, text: str) -> float:
    right, words = WORDS.tokenize(answer), WORDS.tokenize(text)
    common = (Counter(right) & Counter(words)).total()
    return 2 * common / (len(right) + len(words))


@cache
def _rouge_l() -> Figure:
    # A second to import, and only evaluation needs it.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=WORDS)
    return lambda answer, text: float(scorer.score(answer, text)["rougeL"].fmeasure)


@cache
def _meteor() -> Figure | None:
    """None where WordNet is not on this machine. Nothing is downloaded."""
    from nltk.corpus import CorpusReader, LazyCorpusLoader, WordNetCorpusReader
    from nltk.translate.meteor_score import single_meteor_score

    other_languages = LazyCorpusLoader("omw-2.0", CorpusReader, "")  # never read
    wordnet: Any = LazyCorpusLoader("wordnet", WordNetCorpusReader, other_languages)
    try:
        wordnet.ensure_loaded()
    except LookupError:
        return None
    return lambda answer, text: float(
        single_meteor_score(WORDS.tokenize(answer), WORDS.tokenize(text), wordnet=wordnet)
    )


def _bleu(answers: Sequence[Sequence[str]], texts: Sequence[str]) -> float:
    from sacrebleu import BLEU

    if not texts:
        return 0.0
    is_unspaced = any(re.search(UNSPACED, answer) for of_task in answers for answer in of_task)
    bleu: Any = BLEU(tokenize="char" if is_unspaced else "13a", effective_order=True)
    most = max(map(len, answers))
    # One list for each annotator; tasks with fewer of them repeat the first.
    references = [[of_task[min(index, len(of_task) - 1)] for of_task in answers] for index in range(most)]
    return min(1.0, float(bleu.corpus_score(list(texts), references).score) / 100)
