"""The question about a task: what a problem asks, with what the settings and the project say of it."""

from collections.abc import Callable

from lorabel.contracts import Input, MediaRef
from lorabel.problems.base import Problem, TaskData
from lorabel.settings import Settings
from lorabel.time_contracts import SegmentsInput


def build_input(binding: Problem, data: TaskData, settings: Settings) -> Input:
    """Return the question about a task with what the settings say of it: the label template, the step of windows.

    Where the project or the settings choose it, the question is one for a model that writes; see
    `Problem.written`. It has no label template.

    Prediction and training both use this, so that a model is trained on what it is asked.

    Raises:
        UnreadableError: see `Problem.model_input`.
    """
    question = binding.model_input(data)
    if isinstance(question, SegmentsInput):
        question = question.model_copy(update={"step_s": settings.segments_step_s})
    is_written = binding.asking.is_written
    if is_written is None:
        is_written = binding.name in [name.strip() for name in settings.generator_problems.split(",")]
    written = binding.written(question, data) if is_written else None
    return question.with_template(settings.template(binding.name)) if written is None else written


def with_resolved_media(question: Input, resolve: Callable[[MediaRef], MediaRef]) -> Input:
    """Return a copy of the question in which each `MediaRef` is replaced by what `resolve` returns for it.

    Args:
        resolve: turns an address as written in a task into a full URL, with the token that it needs.
    """
    contents = tuple(
        content if content.media is None else content.model_copy(update={"media": resolve(content.media)})
        for content in question.contents
    )
    return question.model_copy(update={"contents": contents})
