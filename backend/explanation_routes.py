"""REST route of explanations: what carried the model's answer about a task, and the nearest annotated tasks."""

from typing import Any

from flask import Blueprint, request

from backend import http_bodies
from backend.project_routes import PROJECT, as_json
from backend.rest_responses import Record
from backend.services import services
from backend.task_explanations import TaskExplanation, explain_task
from lorabel.explanation_contracts import ContentWeights
from lorabel.explanations.explanation import TagExplanation
from lorabel.explanations.label_nearness import ExplainedRegion

blueprint = Blueprint("explanations", __name__, url_prefix="/api/v1")
TASK = f"{PROJECT}/tasks/<int(max={http_bodies.LARGEST_ID}):task_id>"
# A longer address is a data URL, which the task has.
LONGEST_URL = 2000


class WordRecord(Record):
    """A word with its offsets in `text`, in Unicode code points; `end` is after its last character. `weight`: what
    it adds to the logarithm of the odds of the explained label, or to the rating; below 0 if it speaks against."""

    start: int
    end: int
    word: str
    weight: float


class ExplainedContentRecord(Record):
    """What a content of the task carried. `share`: of all contents that speak for the answer, null if there is no
    other. Of a text, `text` as the model reads it, and `words`. Of a picture, `heat`: rows of cells from the top,
    in the unit of `weight`; `fit` says where they lie: on all of the picture (`stretched`), on the largest square
    in its middle (`middle`), or on the smallest square around it (`padded`). `reason`: why parts are not known."""

    modality: str
    url: str | None
    share: float | None
    weight: float
    text: str | None
    words: list[WordRecord]
    heat: list[list[float]]
    fit: str | None
    reason: str | None


class NearLabelRecord(Record):
    """How near a label is to what is in a region. `nearness`: the logarithm of the odds that it names what is
    there, before calibration: 0 is as likely as not. `of_text`: the same by the label's text alone, where a fitted
    head answers; `is_taught`: whether that head has learned anything of the label. Both are null where texts
    answer."""

    label: str
    nearness: float
    of_text: float | None
    is_taught: bool | None


class ExplainedRegionRecord(Record):
    """Why a predicted box or mask has its label. `x`, `y`, `width` and `height`: of the upright box around it, in
    percent of the picture, as in results. `labels`: the nearest ones, the nearest first, and its own. `margin`:
    how much nearer its own label is than the nearest other one; below 0 if the other is nearer, which then has a
    region of its own. Null if there is no other label."""

    x: float
    y: float
    width: float
    height: float
    label: str
    score: float
    margin: float | None
    labels: list[NearLabelRecord]


class TagExplanationRecord(Record):
    """What carried the answer of a control tag. `label`: the one that is explained; null for a rating, and for
    boxes and masks, which are all explained in `regions`. `score`: its probability before calibration, or the
    rating. `labels`: for which `?label=` asks. `url`: of the picture that the regions are in. `reason`: why
    nothing is explained; null if something is."""

    control_tag: str
    label: str | None
    score: float | None
    labels: list[str]
    contents: list[ExplainedContentRecord]
    regions: list[ExplainedRegionRecord]
    url: str | None
    reason: str | None


class NearTaskRecord(Record):
    """An annotated task that is like the explained one. `similarity`: cosine, in [-1, 1]. `labels`: of its newest
    annotation, by control tag."""

    task_id: int
    similarity: float
    labels: dict[str, list[str]]
    url: str | None


class ExplanationRecord(Record):
    """Why `version` answers about a task as it does. `nearest_reason`: why `nearest` is empty."""

    task_id: int
    version: str
    control_tags: list[TagExplanationRecord]
    nearest: list[NearTaskRecord]
    nearest_reason: str | None


@blueprint.get(f"{TASK}/explanation")
def explain(project_id: int, task_id: int) -> dict[str, Any]:
    """Explain the model's answer about a task (`?label=urgent`: its answer about that label)."""
    client = request.environ.get("gunicorn.socket")
    explanation = explain_task(services(), project_id, task_id, request.args.get("label"), client)
    return as_json(_record(explanation))


def _record(explanation: TaskExplanation) -> ExplanationRecord:
    nearest = [
        NearTaskRecord(
            task_id=near.task_id,
            similarity=near.similarity,
            labels={tag: sorted(labels) for tag, labels in near.labels.items()},
            url=near.url,
        )
        for near in explanation.nearest
    ]
    return ExplanationRecord(
        task_id=explanation.task_id,
        version=explanation.version,
        control_tags=[_tag_record(tag) for tag in explanation.tags],
        nearest=nearest,
        nearest_reason=explanation.nearest_reason,
    )


def _tag_record(tag: TagExplanation) -> TagExplanationRecord:
    contents = [
        ExplainedContentRecord(
            modality=content.modality,
            url=_short(content.url),
            share=content.share,
            weight=content.weights.weight,
            text=content.weights.text,
            words=_words(content.weights),
            heat=[list(row) for row in content.weights.heat],
            fit=content.weights.fit,
            reason=content.reason,
        )
        for content in tag.contents
    ]
    return TagExplanationRecord(
        control_tag=tag.control_tag,
        label=tag.label,
        score=tag.score,
        labels=list(tag.labels),
        contents=contents,
        regions=[_region_record(region) for region in tag.regions],
        url=_short(tag.picture_url),
        reason=tag.reason,
    )


def _region_record(region: ExplainedRegion) -> ExplainedRegionRecord:
    left, top, right, bottom = (100 * side for side in region.corners)
    return ExplainedRegionRecord(
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
        label=region.label,
        score=region.score,
        margin=region.margin,
        labels=[NearLabelRecord.model_validate(near) for near in region.labels],
    )


def _short(url: str | None) -> str | None:
    return None if url is None or len(url) > LONGEST_URL else url


def _words(weights: ContentWeights) -> list[WordRecord]:
    text = weights.text or ""
    return [
        WordRecord(start=word.start, end=word.end, word=text[word.start : word.end], weight=word.weight)
        for word in weights.words
    ]
