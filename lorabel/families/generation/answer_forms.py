"""The form of an answer: what may be written for a question, what is written for a target, and how it is read.

labels     one text each, scored: "red", "light-blue"; of several "red: yes", "red: no"
taxonomy   the path: "machine > bearing"
numbers    each number as a label if there are few; else digits
spans      "Person: Ada", a line for each
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lorabel.contracts import Contract, Estimate, LabelTarget, Modality, RatingTarget, Span, SpanScores, SpanTarget
from lorabel.families.encoders.label_logits import label_losses, label_scores
from lorabel.families.generation.constraints import (
    BETWEEN,
    Constraint,
    LabelledSpansGrammar,
    NumberGrammar,
    SpanGrammar,
    one_line,
)
from lorabel.families.generation.label_scoring import Branches
from lorabel.families.generation.vocabulary import Vocabulary
from lorabel.text_contracts import (
    TextTarget,
    WrittenLabelsInput,
    WrittenNumberInput,
    WrittenSpansInput,
    WrittenText,
)

# Numbers between two bounds are scored one by one if there are at most so many.
MOST_NUMBERS = 101
MOST_DECIMALS = 6
ANSWERS = ("yes", "no")
BELOW = " > "
SEPARATOR = BETWEEN.decode()


@dataclass(frozen=True)
class Answered:
    """What a model has written.

    Args:
        tokens: without the end.
        probabilities: of the tokens, and of the end if there is one.
        is_ended: whether the model has ended it.
    """

    tokens: Sequence[int]
    probabilities: Sequence[float]
    is_ended: bool

    @property
    def probability(self) -> float:
        """Mean probability of all tokens."""
        return min(1.0, sum(self.probabilities) / max(1, len(self.probabilities)))


@dataclass(frozen=True)
class TextForm:
    """Any text."""

    left_out: int
    text_of: Callable[[Sequence[int]], str]

    @property
    def constraint(self) -> Constraint | None:
        """None: any text is allowed."""
        return None

    def written(self, target: TextTarget) -> str:
        """What is to be written for a target."""
        return target.text

    def output(self, answered: Answered) -> Contract:
        """The text."""
        return WrittenText(
            text=self.text_of(answered.tokens),
            probability=answered.probability,
            is_complete=answered.is_ended,
            left_out_tokens=self.left_out,
        )


@dataclass(frozen=True)
class SpanForm:
    """A span of one of the contents."""

    text: str
    left_out: int
    vocabulary: Vocabulary

    @cached_property
    def constraint(self) -> Constraint:
        """What may be written."""
        return Constraint(self._grammar, self.vocabulary)

    def written(self, target: TextTarget) -> str:
        """What is to be written for a target."""
        return target.text

    def output(self, answered: Answered) -> Contract:
        """The span, letter by letter as it is in the text."""
        spans = self._grammar.spans
        written = self.vocabulary.written(answered.tokens)
        while written and spans.place(written) is None:  # it was cut off within a character or after a space
            written = written[:-1]
        place = spans.place(written)
        if place is None:
            return WrittenText(text="", probability=0.0, is_complete=False, left_out_tokens=self.left_out)
        start, end = spans.characters(place)
        return WrittenText(
            text=self.text[start:end].encode(errors="replace").decode(),  # half characters cannot be sent
            probability=answered.probability,
            is_complete=answered.is_ended,
            left_out_tokens=self.left_out,
            start=start,
        )

    @cached_property
    def _grammar(self) -> SpanGrammar:
        return SpanGrammar(self.text)


@dataclass(frozen=True)
class LabelledSpansForm:
    """Spans of a text with their labels, a line for each."""

    question: WrittenSpansInput
    text: str
    vocabulary: Vocabulary

    @cached_property
    def constraint(self) -> Constraint:
        """What may be written."""
        return Constraint(self._grammar, self.vocabulary)

    def written(self, target: SpanTarget) -> str:
        """What is to be written for a target: of spans that overlap, the first."""
        lines, after = [], 0
        for start, end, label in target.spans:
            if start >= after and self.text[start:end].strip():
                span = one_line(self.text[start:end]).strip()
                lines.append(f"{self._grammar.labels[label]}{SEPARATOR} {span}")
                after = end
        return "\n".join(lines)

    def output(self, answered: Answered) -> Contract:
        """The spans; the probability of each is the mean of its line's tokens."""
        answer_spans = self._grammar.read(self.vocabulary.written(answered.tokens))
        lines = self._line_probabilities(answered)
        spans = tuple(
            Span(start=start, end=end, label=label, probability=lines[min(index, len(lines) - 1)])
            for index, (start, end, label) in enumerate(answer_spans)
        )
        return SpanScores(spans=spans, no_span_probability=answered.probability)

    @cached_property
    def _grammar(self) -> LabelledSpansGrammar:
        return LabelledSpansGrammar(self.text, tuple(one_line(texts[0]) for texts in self.question.labels))

    def _line_probabilities(self, answered: Answered) -> list[float]:
        lines: list[list[float]] = [[]]
        for token, probability in zip(answered.tokens, answered.probabilities, strict=False):
            lines[-1].append(probability)
            if b"\n" in self.vocabulary.bytes_of.get(token, b""):
                lines.append([])
        return [min(1.0, sum(line) / len(line)) for line in lines if line]


@dataclass(frozen=True)
class DigitsForm:
    """A number in digits."""

    question: WrittenNumberInput
    vocabulary: Vocabulary

    @cached_property
    def constraint(self) -> Constraint:
        """What may be written."""
        return Constraint(self._grammar, self.vocabulary)

    def written(self, target: RatingTarget) -> str:
        """What is to be written for a target."""
        return number_text(target.value, self._grammar.decimals)

    def output(self, answered: Answered) -> Contract:
        """The number. Nothing tells how far off it may be, so the expected error is its size if it is wrong."""
        value = self._grammar.read(self.vocabulary.written(answered.tokens))
        if value is None:
            return Estimate()
        return Estimate(value=value, expected_error=(1 - answered.probability) * (1 + abs(value)))

    @cached_property
    def _grammar(self) -> NumberGrammar:
        return NumberGrammar(self.question.minimum, self.question.maximum, _decimals(self.question))


WrittenForm = TextForm | SpanForm | LabelledSpansForm | DigitsForm


@dataclass(frozen=True)
class LabelsForm:
    """Labels, of which the model says how likely it would write each."""

    question: WrittenLabelsInput

    @property
    def texts(self) -> list[str]:
        """The texts that are scored."""
        labels = self.question.labels
        if self.question.is_multiple:
            return [f"{texts[0]}{SEPARATOR} {answer}" for texts in labels for answer in ANSWERS]
        return [self._path(index, text) for index, texts in enumerate(labels) for text in texts]

    def output(self, scores: Tensor) -> Contract:
        """The probabilities, normalised over the labels that exclude each other."""
        return label_scores(self._logits(scores), self.question.labels_question)

    def loss(self, scores: Tensor, target: LabelTarget) -> Tensor:
        """The loss of the labels."""
        return label_losses(self._logits(scores)[None], self.question.labels_question, [target])[0]

    def _logits(self, scores: Tensor) -> Tensor:
        """(labels,): from the log probability of each text."""
        if self.question.is_multiple:
            yes_no = scores.reshape(-1, len(ANSWERS))
            return yes_no[:, 0] - yes_no[:, 1]
        counts = [len(texts) for texts in self.question.labels]
        return torch.stack([of_label.logsumexp(0) for of_label in torch.split(scores, counts)])

    def _path(self, index: int, text: str) -> str:
        """A label's text with those of the labels above it."""
        if not self.question.parents:
            return text
        parent = self.question.parents[index]
        return text if parent < 0 else f"{self._path(parent, self.question.labels[parent][0])}{BELOW}{text}"


@dataclass(frozen=True)
class NumbersForm:
    """A number out of few, each of which is scored."""

    question: WrittenNumberInput

    @property
    def texts(self) -> list[str]:
        """The texts that are scored."""
        decimals = _decimals(self.question)
        return [number_text(value, decimals) for value in self._values]

    def output(self, scores: Tensor) -> Contract:
        """The median, and the expected absolute error by the probabilities of all numbers."""
        probabilities = scores.softmax(0)
        index = int((probabilities.cumsum(0) < 0.5).sum().clamp(max=len(self._values) - 1))
        value = self._values[index]
        distances = torch.tensor([abs(value - other) for other in self._values], device=scores.device)
        return Estimate(value=value, expected_error=float((probabilities * distances).sum()))

    def loss(self, scores: Tensor, target: RatingTarget) -> Tensor:
        """Cross-entropy of the two numbers beside the right one, by their distances: several annotators' mean may
        lie between."""
        values = self._values
        value = min(max(target.value, values[0]), values[-1])
        losses = -scores.log_softmax(0)
        for index, (low, high) in enumerate(pairwise(values)):
            if low <= value <= high:
                share = (value - low) / (high - low)
                return (1 - share) * losses[index] + share * losses[index + 1]
        return losses[0]

    @cached_property
    def _values(self) -> list[float]:
        return _numbers(self.question)


ScoredForm = LabelsForm | NumbersForm


def number_text(value: float, decimals: int) -> str:
    """A number without an exponent and without zeros at its end."""
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def decimals_of(step: float) -> int:
    """Digits after the point that numbers have which are a number of steps from a round one."""
    text = f"{step:.{MOST_DECIMALS}f}".rstrip("0")
    return len(text.partition(".")[2])


def _decimals(question: WrittenNumberInput) -> int:
    """Digits after the point of the numbers allowed, which are some steps from the minimum, or from 0."""
    return max(decimals_of(question.step), decimals_of(question.minimum or 0.0))


def _numbers(question: WrittenNumberInput) -> list[float]:
    """The numbers allowed, ascending; none if there are too many."""
    if question.minimum is None or question.maximum is None:
        return []
    steps = (question.maximum - question.minimum) / question.step
    if steps + 1 > MOST_NUMBERS:
        return []
    decimals = _decimals(question)
    return [round(question.minimum + index * question.step, decimals) for index in range(int(steps + 1e-6) + 1)]


def form_of(
    question: Any,
    texts: Sequence[str],
    left_out: int,
    vocabulary: Vocabulary,
) -> WrittenForm | ScoredForm | None:
    """Return the form of the answers to a question.

    Args:
        texts: what the contents say that are texts.
        left_out: tokens of them that the model does not read.

    Returns:
        None if any text is one.
    """
    if isinstance(question, WrittenLabelsInput):
        return LabelsForm(question)
    if isinstance(question, WrittenNumberInput):
        return NumbersForm(question) if _numbers(question) else DigitsForm(question, vocabulary)
    if isinstance(question, WrittenSpansInput):
        return LabelledSpansForm(question, texts[-1], vocabulary)
    if question.span_of is not None:
        before = question.contents[: question.span_of]
        index = sum(content.modality == Modality.TEXT for content in before)
        return SpanForm(texts[index], left_out, vocabulary)
    return None


def branches_of(
    form: WrittenForm | ScoredForm | None, encode: Callable[[str], list[int]], end: int
) -> Branches | None:
    """Return the texts that are scored as tokens; None if the answer is written.

    Args:
        encode: the tokens of a text.
        end: the token after each text.

    Raises:
        ValueError: there are too many.
    """
    if not isinstance(form, ScoredForm):
        return None
    return Branches.of([[*encode(text), end] for text in form.texts])
