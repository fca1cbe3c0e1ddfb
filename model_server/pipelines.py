"""Rows that two families answer, one after the other: the second is asked about what the first has found.

Each of the two questions is a row of its own, with the same adapter: it shares its batch with rows of others.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

from lorabel.contracts import Input
from lorabel.families.mask_pipeline import answer_of, boxes_question, masks_question
from lorabel.inference.messages import RowResult
from lorabel.mask_contracts import LabelledMasksInput, Masks
from lorabel.space_contracts import Boxes, BoxesInput
from model_server.rows import Row, errors_as_result


def begin(row: Row, start: Callable[[Row], None]) -> None:
    """Begin to compute a row; if a pipeline answers it, the row of its first family.

    Args:
        start: begins to compute a row that one family answers.
    """
    if isinstance(row.question, LabelledMasksInput):
        _ask_both(row, row.question, start)
    else:
        start(row)


def _ask_both(row: Row, question: LabelledMasksInput, start: Callable[[Row], None]) -> None:
    """Ask the detector, then the segmenter; the row gets the answer of both, or the first error."""

    def ask_segmenter(found: RowResult) -> None:
        boxes = Boxes.model_validate(found.output)

        def answer(drawn: RowResult) -> None:
            masks = answer_of(boxes, Masks.model_validate(drawn.output))
            row.finish(RowResult(output=masks.model_dump()))

        _ask(row, masks_question(question, boxes), start, answer)

    _ask(row, boxes_question(question), start, ask_segmenter)


def _ask(row: Row, question: Input, start: Callable[[Row], None], then: Callable[[RowResult], None]) -> None:
    """Have a question computed for a row, and call `then` with its output.

    An error is the row's result. If the row is cancelled, the question is too. A head is for the boxes.
    """
    head = row.head if isinstance(question, BoxesInput) else None
    part = replace(row, question=question, head=head, done=Future(), files={}, loaded=None, example=None)

    def go_on(done: "Future[RowResult]") -> None:
        if done.cancelled():
            return
        result = done.result()
        if result.error is not None:
            row.finish(result)
            return
        with errors_as_result(row.done, row.question.kind):
            then(result)

    part.done.add_done_callback(go_on)
    row.done.add_done_callback(lambda _: part.done.cancel())
    with errors_as_result(part.done, question.kind):
        start(part)
