"""The probability that a written text is right: (right, not right), for problems whose output is `WrittenText`.

How likely a model finds its own tokens says little about whether they are right: a fluent summary that lacks what
matters may have a mean token probability of 0.9. So scores are calibrated with a temperature and an offset
(https://en.wikipedia.org/wiki/Platt_scaling).
"""

import math

from lorabel.evaluation.written_text import rouge_l
from lorabel.problems._label_scores import SMALLEST_PROBABILITY
from lorabel.problems.base import Case
from lorabel.text_contracts import TextTarget, WrittenText

# A text with this ROUGE-L counts as right, by default. Where the words of an answer are free, few are equal.
RIGHT_FROM = 0.7


def distribution(output: WrittenText) -> tuple[float, float]:
    """(right, not right) as the output says it."""
    return (output.probability, 1 - output.probability)


def case_of(output: WrittenText, target: TextTarget, right_from: float) -> Case:
    """Whether the output was right, to one of the annotators.

    Args:
        right_from: smallest ROUGE-L of a right text, or of an equal one: at 1, all words.
    """
    is_right = max(rouge_l(answer, output.text) for answer in (target.text, *target.others)) >= right_from
    return Case(distribution(output), int(not is_right))


def calibrated(output: WrittenText, temperature: float, offset: float) -> WrittenText:
    """The output with its log odds divided by the temperature, and then moved by the offset."""
    right, wrong = (math.log(max(chance, SMALLEST_PROBABILITY)) for chance in distribution(output))
    log_odds = (right - wrong) / temperature + offset
    # Both forms are exact where the other would overflow.
    probability = 1 / (1 + math.exp(-log_odds)) if log_odds > 0 else math.exp(log_odds) / (1 + math.exp(log_odds))
    return output.model_copy(update={"probability": probability})
