"""How near transcripts are to the right ones: word error rate, and character error rate.

Words are those of `lorabel.evaluation.written_text.WORDS`: without case and punctuation, and in scripts without
spaces each character. Where several annotators have answered, the nearest of their answers counts.
"""

from collections.abc import Callable, Sequence

from lorabel.evaluation.metrics import Metrics
from lorabel.evaluation.text_metrics import edit_distance
from lorabel.evaluation.written_text import WORDS

Parts = Callable[[str], Sequence[str]]


def transcripts(
    targets: Sequence[str], texts: Sequence[str], others: Sequence[Sequence[str]] | None = None
) -> Metrics:
    """Figures of all sounds together.

    `word_error_rate`: words to insert, delete or replace, divided by the words of the right texts.
    It may exceed 1.
    `word_accuracy`, the primary: 1 minus it, where no sound counts for more errors than it has words: a text that
    is all wrong is no worse than none. `character_error_rate` is the same of the letters and digits.

    Args:
        others: for each sound, what annotators other than that of the target have written.
    """
    of_others = others or [()] * len(targets)
    answers = [(target, *more) for target, more in zip(targets, of_others, strict=True)]
    errors, lengths = _errors(answers, texts, WORDS.tokenize)
    character_errors, characters = _errors(answers, texts, lambda text: "".join(WORDS.tokenize(text)))
    limited = sum(min(count, length) for count, length in zip(errors, lengths, strict=True))
    return Metrics(
        "word_accuracy",
        {
            "tasks": len(targets),
            "answered": sum(bool(text.strip()) for text in texts),
            "word_accuracy": 1 - limited / sum(lengths) if lengths else 0.0,
            "word_error_rate": sum(errors) / sum(lengths) if lengths else 0.0,
            "character_error_rate": sum(character_errors) / sum(characters) if characters else 0.0,
            "exact_match": sum(count == 0 for count in errors) / len(errors) if errors else 0.0,
        },
    )


def word_error_rate(target: str, text: str) -> float:
    """Return the word error rate of one text."""
    (errors,), (length,) = _errors([(target,)], [text], WORDS.tokenize)
    return errors / length


def _errors(answers: Sequence[Sequence[str]], texts: Sequence[str], parts: Parts) -> tuple[list[int], list[int]]:
    """For each sound, the fewest errors to one of the answers, and the number of that answer's parts."""
    errors, lengths = [], []
    for of_sound, text in zip(answers, texts, strict=True):
        written = parts(text) if text.strip() else ""
        counted = [(edit_distance(right, written), len(right)) for right in map(parts, of_sound)]
        fewest, length = min(counted, key=lambda pair: pair[0] / pair[1])
        errors.append(fewest)
        lengths.append(length)
    return errors, lengths
