"""Rows that are answered by several questions, one after the other.

Of masks the detector is asked first, and then the segmenter about what was found. Of tracks the detector is asked
about one window of the video after the other, and then the tracker about tracks that are begun. Each of these
questions is a row of its own, with the same adapter: it shares its batch with rows of others.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from lorabel.contracts import Input
from lorabel.families.mask_pipeline import answer_of, boxes_question, masks_question
from lorabel.families.track_pipeline import following_question, window_question, with_followed
from lorabel.families.tracking.found_tracks import TrackFinder
from lorabel.inference.messages import RowError, RowResult
from lorabel.mask_contracts import LabelledMasksInput, Masks
from lorabel.space_contracts import Boxes, BoxesInput
from lorabel.track_contracts import FrameBoxes, Tracks, TracksInput
from model_server.metrics import Metrics
from model_server.rows import Row, errors_as_result

log = logging.getLogger(__name__)


def begin(row: Row, start: Callable[[Row], None], metrics: Metrics) -> None:
    """Begin to compute a row; if a pipeline answers it, the row of its first question.

    Args:
        start: begins to compute a row that one family answers.
        metrics: counts the rows of which the tracker followed nothing.
    """
    if isinstance(row.question, LabelledMasksInput):
        _ask_both(row, row.question, start)
    elif isinstance(row.question, TracksInput):
        _ask_windows(row, row.question, start, metrics)
    else:
        start(row)


def _ask_both(row: Row, question: LabelledMasksInput, start: Callable[[Row], None]) -> None:
    """Ask the detector, then the segmenter; the row gets the answer of both, or the first error."""

    def ask_segmenter(detected: RowResult) -> None:
        boxes = Boxes.model_validate(detected.output)

        def answer(drawn: RowResult) -> None:
            masks = answer_of(boxes, Masks.model_validate(drawn.output))
            row.finish(RowResult(output=masks.model_dump()))

        _ask(row, masks_question(question, boxes), start, answer)

    _ask(row, boxes_question(question), start, ask_segmenter)


def _ask_windows(row: Row, question: TracksInput, start: Callable[[Row], None], metrics: Metrics) -> None:
    """Ask the detector about each window of the video, then the tracker; the row gets the tracks, or the first
    error of the detector. If the tracker fails, the row gets what the detector found.
    """
    finder = TrackFinder(question.frames_per_s)

    def ask(window: int) -> None:
        def add(detected: RowResult) -> None:
            boxes = FrameBoxes.model_validate(detected.output)
            finder.add(boxes)
            if window + 1 < boxes.windows:
                ask(window + 1)
            elif question.begun:
                ask_tracker(finder.tracks())
            else:
                row.finish(RowResult(output=finder.tracks().model_dump()))

        _ask(row, window_question(question, window), start, add)

    def ask_tracker(tracks: Tracks) -> None:
        def answer(followed: RowResult) -> None:
            output = with_followed(tracks, Tracks.model_validate(followed.output))
            row.finish(RowResult(output=output.model_dump()))

        def answer_without(error: RowError) -> None:
            log.warning("the tracker failed, so the detector's tracks are answered alone: %s", error.reason)
            metrics.not_followed.inc()
            row.finish(RowResult(output=tracks.model_dump()))

        without_adapter = replace(row, adapter=None)  # adapters are the detector's
        _ask(without_adapter, following_question(question), start, answer, answer_without)

    ask(0)


def _ask(
    row: Row,
    question: Input,
    start: Callable[[Row], None],
    then: Callable[[RowResult], None],
    otherwise: Callable[[RowError], None] | None = None,
) -> None:
    """Have a question computed for a row, and call `then` with its output.

    If the row is cancelled, the question is too. A head is for the boxes.

    Args:
        otherwise: is called with an error; None: it is the row's result.
    """
    head = row.head if isinstance(question, BoxesInput) else None
    part = replace(row, question=question, head=head, done=Future(), files={}, loaded=None, example=None)

    def go_on(done: "Future[RowResult]") -> None:
        part.files, part.example = {}, None  # else the files and frames of all parts stay until the row ends
        if done.cancelled():
            return
        result = done.result()
        if result.error is not None:
            row.finish(result) if otherwise is None else otherwise(result.error)
            return
        with errors_as_result(row.done, row.question.kind):
            then(result)

    part.done.add_done_callback(go_on)
    row.done.add_done_callback(lambda _: part.done.cancel())
    with errors_as_result(part.done, question.kind):
        start(part)
