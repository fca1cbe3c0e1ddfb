"""Explains the predictions of a task: what in its contents carried the answer of each control tag.

What cannot be explained gets a reason, so that a task is never left without an answer because of one control tag.
"""

import logging
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

from pydantic import ValidationError

from lorabel.contracts import Content, Input, LabelsInput, MediaRef, Modality, RatingInput
from lorabel.errors import ModelServerError, UnreadableError, cut
from lorabel.explanation_contracts import ContentWeights, Explanation, ExplanationInput
from lorabel.explanations.label_nearness import ExplainedRegion, explain_regions
from lorabel.inference import requests
from lorabel.inference.messages import PredictRow
from lorabel.inference.prediction import LATE, ProjectModel, questions_about
from lorabel.inference.question import Question
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.problems._choices import ChoicesProblem
from lorabel.problems._near_labels import NearLabels
from lorabel.problems.base import Problem, TaskData

log = logging.getLogger(__name__)

# Rows into which an explanation is divided for each content, and in all: predictions go between them.
PIECES, MOST_PIECES = 8, 32
# Each picture is computed about 140 times, and each row reads all contents.
MOST_CONTENTS = 16
EXPLAINED = frozenset({Modality.TEXT, Modality.IMAGE, Modality.AUDIO})
WITHOUT_PARTS = "sounds are not divided: only their share is known"
NO_REGION = "the model finds nothing that the labels name"


@dataclass(frozen=True)
class ExplainedContent:
    """What a content of a question carried.

    Attributes:
        url: of a file, as in the task's data; None for a text that is in the task itself.
        text: such a text, all of it; None for a file.
        share: of all contents that speak for the answer, in [0, 1]; None if the content is the only one.
        weights: of its parts.
        reason: why its parts are not explained; None if they are.
    """

    modality: Modality
    url: str | None
    text: str | None
    share: float | None
    weights: ContentWeights
    reason: str | None = None


@dataclass(frozen=True)
class TagExplanation:
    """What carried the answer of a control tag.

    Attributes:
        labels: those that can be explained; empty for a rating, and for regions, which are all explained.
        label: the one that is explained; None for a rating, for regions, or if nothing is.
        score: the probability of the label before calibration, or the rating; None for regions, or if nothing is
            explained.
        regions: the predicted boxes or masks.
        picture_url: of the picture that the regions are in, as in the task's data; None if there is none.
        reason: why nothing is explained; None if something is.
        is_failed: whether the explanation failed, so that the reason may pass.
    """

    control_tag: str
    labels: tuple[str, ...] = ()
    label: str | None = None
    score: float | None = None
    contents: tuple[ExplainedContent, ...] = ()
    regions: tuple[ExplainedRegion, ...] = ()
    picture_url: str | None = None
    reason: str | None = None
    is_failed: bool = False


def explain(
    model: ProjectModel,
    data: TaskData,
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
    label: str | None = None,
) -> list[TagExplanation]:
    """Explain what the project's model answers about a task, by control tag, in the order of the label config.

    Args:
        data: `data` of the task.
        resolve: adds the host and the token to a task's media, see `Authorizations.resolver`.
        label: explained for each control tag that has it; for others, and without it, the likeliest is.
    """
    unserved = [
        TagExplanation(binding.from_name, reason="control tags that ask about regions are not explained")
        for binding in model.bound.bindings
        if binding.is_per_region
    ]
    return explain_tags(model, model.bound.bindings, data, resolve, caller, EXPLAINED, label) + unserved


def explain_tags(
    model: ProjectModel,
    bindings: Sequence[Problem],
    data: TaskData,
    resolve: Callable[[MediaRef], MediaRef],
    caller: PredictionCaller,
    modalities: Set[Modality],
    label: str | None = None,
) -> list[TagExplanation]:
    """Explain what the project's model answers for some control tags; see `explain`.

    Args:
        bindings: of these control tags. Those that ask about regions are left out.
        modalities: that may be divided. Answers about others are not explained, except boxes and masks, which are
            explained without that.
    """
    about_task = [binding for binding in bindings if not binding.is_per_region]
    as_written = questions_about(model, about_task, data, lambda media: media)
    questions = questions_about(model, about_task, data, resolve)
    return [
        _explain(caller, binding, question, _contents(written), modalities, label)
        for binding, question, written in zip(about_task, questions, as_written, strict=True)
    ]


def label_names(binding: Problem) -> tuple[str, ...]:
    """The labels of a control tag as people know them, in the order of its question; of a taxonomy their paths."""
    if not isinstance(binding, ChoicesProblem):
        return ()
    if binding.taxonomy is None:
        return tuple(label.value for label in binding.labels)
    return tuple(" / ".join(path) for path in binding.taxonomy.paths)


def _contents(question: Question | Unreadable) -> Sequence[Content]:
    return question.contract.contents if isinstance(question, Question) else ()


def _explain(
    caller: PredictionCaller,
    binding: Problem,
    question: Question | Unreadable,
    contents: Sequence[Content],
    modalities: Set[Modality],
    label: str | None,
) -> TagExplanation:
    """Args: `contents`: of the question, with the addresses as they are in the task."""
    labels = label_names(binding)
    unexplained = TagExplanation(binding.from_name, labels)
    if isinstance(question, Unreadable):
        return replace(unexplained, reason=question.reason, is_failed=True)
    contract = question.contract
    near = binding.explained(contract) if isinstance(binding, NearLabels) else None
    if near is not None:
        return _with_regions(caller, question, near, contents)
    # Subclasses ask otherwise: about segments, or each region.
    if not isinstance(contract, LabelsInput | RatingInput) or type(contract) not in (LabelsInput, RatingInput):
        return replace(unexplained, reason=f"answers of {binding.name} are not explained")
    if others := sorted(contract.modalities - modalities):
        return replace(unexplained, reason=f"answers about {' and '.join(others)} are not explained")
    if len(contents) > MOST_CONTENTS:
        return replace(unexplained, reason=f"answers about more than {MOST_CONTENTS} contents are not explained")
    wanted = labels.index(label) if label is not None and label in labels else None
    try:
        answer = _answer(caller, question, contract, wanted)
    except (ModelServerError, UnreadableError) as error:
        return replace(unexplained, reason=cut(str(error)), is_failed=True)
    explained = zip(contents, answer.contents, _shares(answer.contents), strict=True)
    return replace(
        unexplained,
        label=None if answer.label is None else labels[answer.label],
        score=answer.score,
        contents=tuple(_explained(*each) for each in explained),
    )


def _with_regions(
    caller: PredictionCaller, question: Question, near: Input, contents: Sequence[Content]
) -> TagExplanation:
    """The explanation of boxes or masks.

    Args:
        near: asks for the nearness of all labels.
        contents: the picture, with its address as it is in the task.
    """
    unexplained = TagExplanation(question.binding.from_name)
    try:
        regions = explain_regions(caller, question, near, LATE)
    except (ModelServerError, UnreadableError) as error:
        return replace(unexplained, reason=cut(str(error)), is_failed=True)
    if not regions:
        return replace(unexplained, reason=NO_REGION)
    media = contents[0].media
    return replace(unexplained, regions=tuple(regions), picture_url=None if media is None else media.url)


def _answer(
    caller: PredictionCaller,
    question: Question,
    contract: LabelsInput | RatingInput,
    wanted: int | None,
) -> Explanation:
    """The pieces together. The first says which label the others explain: the likeliest may change meanwhile.

    Args:
        wanted: the label that is explained; None for the likeliest.

    Raises:
        ModelServerError: see `requests.send`.
        UnreadableError: a piece has no answer, or one that makes no sense.
    """
    count, labels = len(contract.contents), len(label_names(question.binding))
    taxonomy = question.binding.taxonomy if isinstance(question.binding, ChoicesProblem) else None
    pieces = ExplanationInput.of(
        contract,
        wanted,
        min(PIECES * count, MOST_PIECES),
        has_leaves_only=taxonomy is not None and taxonomy.has_leaves_only,
    )
    try:
        (first,) = _send(caller, question, pieces[:1])
        if len(first.contents) != count or (first.label is not None and not 0 <= first.label < labels):
            raise ValueError(f"label {first.label}, {len(first.contents)} contents")
        others = [piece.model_copy(update={"label": first.label}) for piece in pieces[1:]]
        return Explanation.joined([first, *_send(caller, question, others)])
    except (ValidationError, ValueError) as error:
        log.error("the model server's explanation makes no sense: %s", error)
        raise UnreadableError("the model server's explanation makes no sense", is_permanent=False) from error


def _send(caller: PredictionCaller, question: Question, pieces: Sequence[ExplanationInput]) -> list[Explanation]:
    """The answers to pieces; see `_answer` for what is raised."""
    rows = [
        PredictRow(
            kind=piece.kind, input=piece.model_dump(mode="json"), adapter=question.adapter, head=question.head
        )
        for piece in pieces
    ]
    explanations = []
    for answer in requests.send(caller, rows, LATE):
        if isinstance(answer, Unreadable):
            raise UnreadableError(answer.reason, is_permanent=answer.is_permanent)
        explanation = Explanation.model_validate(answer)
        if explanation.reason is not None:
            raise UnreadableError(explanation.reason, is_permanent=False)
        explanations.append(explanation)
    return explanations


def _shares(contents: Sequence[ContentWeights]) -> list[float | None]:
    """The share of each content in what speaks for the answer; equal ones if none does."""
    if len(contents) == 1:
        return [None]
    positive = [max(0.0, content.weight) for content in contents]
    whole = sum(positive)
    return [weight / whole if whole else 1 / len(contents) for weight in positive]


def _explained(content: Content, weights: ContentWeights, share: float | None) -> ExplainedContent:
    reason = None if content.modality in (Modality.TEXT, Modality.IMAGE) else WITHOUT_PARTS
    url = None if content.media is None else content.media.url
    return ExplainedContent(content.modality, url, content.text, share, weights, reason)
