"""What the editor shows of why the model predicts so, see `EXPLAIN_IN`: a text, and marked words and places.

The regions stand beside those of the prediction, in control tags for explanations (`explanation_tags`). Somebody
waits for the prediction, so an explanation has EXPLAIN_MAX_S and a low priority; without one the prediction is
returned all the same.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from enum import StrEnum
from time import monotonic

from lorabel.contracts import MediaRef, Modality
from lorabel.database.store import Store
from lorabel.errors import LorabelError, MissingTargetError, UnreadableError, UnservedError
from lorabel.explanation_settings import REGIONS, TEXTAREA
from lorabel.explanations.explanation import ExplainedContent, TagExplanation, explain_tags
from lorabel.explanations.marks import places_of, words_of
from lorabel.explanations.nearest_tasks import AnnotatedHit, nearest_known
from lorabel.explanations.sentences import sentences
from lorabel.inference import requests
from lorabel.inference.messages import Priority
from lorabel.inference.prediction import ProjectModel
from lorabel.inference.requests import PredictionCaller
from lorabel.labeling import explanation_regions, task_content
from lorabel.labeling.image_regions import corners_of
from lorabel.labeling.label_config import ControlTag, LabelConfig
from lorabel.labeling.named_labels import named_labels
from lorabel.labeling.regions import Region
from lorabel.problems.base import TaskData
from lorabel.search.searcher import Searcher
from lorabel.settings import Settings
from lorabel.space_contracts import Corners

log = logging.getLogger(__name__)
# Sides of the same place differ by less, as fractions of the picture.
SAME_PLACE = 0.01

# So many annotated tasks are named that are like the task.
NEAREST = 3


class Outcome(StrEnum):
    """What became of an explanation: regions, nothing to explain, an error, or no time."""

    WRITTEN = "written"
    EMPTY = "empty"
    FAILED = "failed"
    LATE = "late"


@dataclass(frozen=True)
class EditorExplanation:
    """The regions that explain a prediction in the editor."""

    regions: Sequence[Region]
    outcome: Outcome


@dataclass(frozen=True)
class EditorExplanations:
    """Explains predictions for the editor. Thread-safe.

    Attributes:
        are_waited_for: whether somebody waits for them, see `Searcher.nearest_known`.
    """

    settings: Settings
    store: Store
    searcher: Searcher
    are_waited_for: bool

    def are_wanted(self, config: LabelConfig) -> bool:
        """Whether predictions of tasks with this label config are explained in the editor."""
        return bool(self._tags(config))

    def explain(
        self,
        model: ProjectModel,
        task: tuple[int, TaskData],
        predicted: Sequence[Region],
        resolve: Callable[[MediaRef], MediaRef],
        caller: PredictionCaller,
    ) -> EditorExplanation:
        """Explain a prediction. Raises nothing: what fails is logged, and there is no region then.

        Args:
            task: its id and its data.
            predicted: the regions of the prediction. What they do not say is not explained.
            resolve: as for `lorabel.inference.prediction.predict`.
            caller: of the prediction.
        """
        deadline = min(caller.deadline, monotonic() + self.settings.explain_max_s)
        caller = replace(caller, priority=Priority.BULK, deadline=deadline)
        try:
            return self._explain(model, task, predicted, resolve, caller)
        except Exception:
            # Whatever it is: the prediction is right, and an annotator waits for it.
            log.exception("project %d, task %d: the prediction is not explained", model.project_id, task[0])
            return EditorExplanation((), Outcome.FAILED)

    def _tags(self, config: LabelConfig) -> list[tuple[str, ControlTag]]:
        """The control tags for explanations of the kinds that EXPLAIN_IN has, each with its kind."""
        kinds = self.settings.explained_in
        of_kind = [(_kind(control), control) for control in config.explanations] if kinds else []
        return [(kind, control) for kind, control in of_kind if kind is not None and kind in kinds]

    def _explain(
        self,
        model: ProjectModel,
        task: tuple[int, TaskData],
        predicted: Sequence[Region],
        resolve: Callable[[MediaRef], MediaRef],
        caller: PredictionCaller,
    ) -> EditorExplanation:
        task_id, data = task
        tags = self._tags(model.bound.config)
        answered = {region.get("from_name") for region in predicted}
        bindings = [binding for binding in model.bound.bindings if binding.from_name in answered]
        explained = explain_tags(model, bindings, data, resolve, caller, _divided(tags))
        failures = [tag.reason for tag in explained if tag.is_failed]
        if failures:
            log.warning(
                "project %d, task %d: not explained in the editor: %s", model.project_id, task_id, failures[0]
            )
        right = [tag for each in explained if (tag := _of_predicted(each, predicted)) is not None]
        contents = [content for tag in right for content in tag.contents]
        is_told = any(kind == TEXTAREA for kind, _ in tags)
        lines = sentences(right, self._nearest(model, task, resolve, caller)) if is_told else []
        regions = [
            region
            for kind, control in tags
            for region in _regions(kind, control, data, contents, lines)
            if _is_valid(model, region)
        ]
        if regions:
            return EditorExplanation(regions, Outcome.WRITTEN)
        is_late = bool(failures) and caller.deadline - monotonic() < requests.MIN_TIME_S
        return EditorExplanation((), Outcome.LATE if is_late else Outcome.FAILED if failures else Outcome.EMPTY)

    def _nearest(
        self,
        model: ProjectModel,
        task: tuple[int, TaskData],
        resolve: Callable[[MediaRef], MediaRef],
        caller: PredictionCaller,
    ) -> list[AnnotatedHit]:
        """The annotated tasks that are like the task; none if they are not known now."""
        try:
            return nearest_known(
                self.searcher,
                self.store,
                caller,
                model.bound,
                task,
                resolve,
                NEAREST,
                is_waited_for=self.are_waited_for,
            )
        except LorabelError as error:
            log.info("project %d, task %d: nothing is compared with it: %s", model.project_id, task[0], error)
            return []


def _kind(control: ControlTag) -> str | None:
    try:
        return explanation_regions.kind_of(control)
    except UnservedError:  # which /setup and `lorabel connect` say
        return None


def _divided(tags: Sequence[tuple[str, ControlTag]]) -> Set[Modality]:
    """The modalities that are divided to fill these control tags: of pictures only where places are marked."""
    marks_pictures = [kind == REGIONS and explanation_regions.marks_pictures(control) for kind, control in tags]
    modalities = {Modality.IMAGE} if any(marks_pictures) else set[Modality]()
    return modalities if all(marks_pictures) else modalities | {Modality.TEXT}


def _of_predicted(tag: TagExplanation, predicted: Sequence[Region]) -> TagExplanation | None:
    """What an explanation says of a prediction: a rule may have removed the label, or some regions, meanwhile.

    Regions stay whose label a predicted region has at their place. None if nothing is left.
    """
    if not tag.regions:
        labels = named_labels(predicted).get(tag.control_tag, set())
        return tag if tag.reason is None and (tag.label is None or tag.label in labels) else None
    places: dict[str, list[Corners | None]] = defaultdict(list)
    for region in predicted:
        for label in named_labels([region]).get(tag.control_tag, ()):
            places[label].append(_corners(region))
    left = tuple(region for region in tag.regions if _is_at(region.corners, places[region.label]))
    return replace(tag, regions=left) if left else None


def _is_at(corners: Corners, places: Sequence[Corners | None]) -> bool:
    return any(
        place is None or all(abs(a - b) < SAME_PLACE for a, b in zip(corners, place, strict=True))
        for place in places
    )


def _corners(region: Region) -> Corners | None:
    """None of a mask, whose place is in its pixels."""
    try:
        return corners_of(region)
    except MissingTargetError:
        return None


def _regions(
    kind: str, control: ControlTag, data: TaskData, contents: Sequence[ExplainedContent], lines: Sequence[str]
) -> list[Region]:
    """The regions of a control tag for explanations.

    Args:
        contents: of all explained control tags.
        lines: what a text says.
    """
    if kind == TEXTAREA:
        return explanation_regions.said(control, lines)
    has_against = len(control.labels) > 1
    try:
        shown = task_content.contents(control.objects[0], data)
    except UnreadableError:  # the prediction has said why
        return []
    if len(shown) != 1:
        return []
    (content,) = shown
    if content.media is None:
        of_text = [each for each in contents if each.text is not None and each.text == content.text]
        words = words_of(of_text, has_against=has_against)
        return explanation_regions.marked_words(control, data, words)
    of_picture = [each for each in contents if each.url == content.media.url]
    size = next((each.weights.size for each in of_picture if each.weights.size is not None), None)
    if size is None:
        return []
    places = places_of(of_picture, size, has_against=has_against)
    return explanation_regions.marked_places(control, size, places)


def _is_valid(model: ProjectModel, region: Region) -> bool:
    errors = model.bound.config.find_region_errors(region)
    if errors:
        log.error("project %d: an explanation's region is dropped: %s", model.project_id, "; ".join(errors))
    return not errors
