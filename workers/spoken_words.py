"""What is said in the videos of a run: texts about videos are learned from the prompts of predictions.

The model server reads subtitles, or writes a transcript, once for each content. Where it cannot be asked, the run
goes on without the words: the frames are there.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from lorabel.contracts import Modality
from lorabel.errors import ModelServerError, UnreadableError
from lorabel.inference import requests
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.requests import PredictionCaller, Unreadable
from lorabel.problems.task_questions import with_resolved_media
from lorabel.text_contracts import TranscriptInput, WrittenText, is_about_video, with_words
from workers.attempt import TrainingContext
from workers.examples import TrainingExample, TrainingPlan
from workers.services import Services

log = logging.getLogger(__name__)

LATE = "the time for finding out what is said in the videos of a run is up"


def with_spoken_words(services: Services, plan: TrainingPlan, context: TrainingContext) -> TrainingPlan:
    """Return the plan with what is said in videos in the questions for texts about them."""
    examples = [example for example in [*plan.train, *plan.held_out] if is_about_video(example.question)]
    if not examples or not services.settings.video_speech:
        return plan
    words = _words(services, examples, context)
    return replace(
        plan,
        train=[_with(example, words) for example in plan.train],
        held_out=[_with(example, words) for example in plan.held_out],
    )


def _with(example: TrainingExample, words: dict[int, str]) -> TrainingExample:
    transcript = words.get(example.task_id, "")
    return replace(example, question=with_words(example.question, transcript)) if transcript else example


def _words(services: Services, examples: Sequence[TrainingExample], context: TrainingContext) -> dict[int, str]:
    """Task id -> what is said in its first video; without tasks of which this is not known."""
    rows: dict[int, PredictRow] = {}
    for example in examples:
        video = next(content for content in example.question.contents if content.modality == Modality.VIDEO)
        try:
            question = with_resolved_media(TranscriptInput(contents=(video,)), context.resolve)
        except UnreadableError:
            continue  # said where the video is read
        rows[example.task_id] = PredictRow(kind=question.kind, input=question.model_dump(mode="json"))
    deadline = monotonic() + services.settings.train_read_s
    caller = PredictionCaller(services.model_client, context.project_id, Priority.LOOKAHEAD, deadline)
    try:
        outputs = requests.send(caller, list(rows.values()), LATE)
    except ModelServerError as error:
        log.warning("a run learns about videos without what is said in them: %s", error)
        return {}
    return {
        task_id: WrittenText.model_validate(output).text
        for task_id, output in zip(rows, outputs, strict=True)
        if not isinstance(output, Unreadable)
    }
