from collections.abc import Sequence
from time import monotonic
from typing import Any, cast

import pytest

from lorabel.errors import ModelServerError, RequestTooLargeError
from lorabel.inference import requests
from lorabel.inference.messages import PredictRow, Priority, RowError, RowResult
from lorabel.inference.requests import PredictionCaller, Unreadable, send

LATE = "the time is up"


class FakeModelClient:
    """Stands in for the client of the model server. Answers each row with its own input.

    `fails_from`: number of the first request that fails. `max_rows`: requests with more rows are too large, as is
    each row with a "large" in its input.
    """

    def __init__(self, fails_from: int = 99, max_rows: int = 99) -> None:
        self.sizes: list[int] = []
        self.fails_from, self.max_rows = fails_from, max_rows

    def predict(self, rows: Sequence[PredictRow], *_: Any) -> list[RowResult]:
        if len(self.sizes) >= self.fails_from:
            raise ModelServerError("cannot be reached")
        if len(rows) > self.max_rows or any("large" in row.input for row in rows):
            raise RequestTooLargeError("too large")
        self.sizes.append(len(rows))
        return [self.answer(row) for row in rows]

    def answer(self, row: PredictRow) -> RowResult:
        if error := row.input.get("error"):
            return RowResult(error=RowError(reason="no picture", is_permanent=error == "permanent"))
        return RowResult(output=row.input)


@pytest.fixture(autouse=True)
def three_rows_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "ROWS_PER_REQUEST", 3)


def caller(client: FakeModelClient, timeout_s: float = 10.0) -> PredictionCaller:
    return PredictionCaller(cast(Any, client), 1, Priority.BULK, monotonic() + timeout_s)


def rows(count: int) -> list[PredictRow]:
    return [PredictRow(kind="labels", input={"number": number}) for number in range(count)]


def test_rows_are_sent_in_pieces_and_answered_in_order() -> None:
    client = FakeModelClient()
    assert send(caller(client), rows(7), LATE) == [{"number": number} for number in range(7)]
    assert client.sizes == [3, 3, 1]


def test_rows_are_sent_in_pieces_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BYTES_PER_REQUEST", 1000)
    client = FakeModelClient()
    texts = [PredictRow(kind="labels", input={"text": number * "x"}) for number in (400, 400, 400, 2000, 10, 10)]
    assert send(caller(client), texts, LATE) == [row.input for row in texts]
    assert client.sizes == [2, 1, 1, 2]


def test_a_piece_that_the_model_server_finds_too_large_is_halved() -> None:
    client = FakeModelClient(max_rows=1)
    assert send(caller(client), rows(7), LATE) == [{"number": number} for number in range(7)]
    assert client.sizes == [1] * 7


def test_a_row_that_alone_is_too_large_has_no_answer_and_the_others_have_theirs() -> None:
    mixed = [*rows(2), PredictRow(kind="labels", input={"large": True}), *rows(2)]
    answers = send(caller(FakeModelClient()), mixed, LATE)
    assert answers == [{"number": 0}, {"number": 1}, Unreadable("too large", is_permanent=True), *answers[:2]]


def test_no_rows_are_no_request() -> None:
    client = FakeModelClient()
    assert send(caller(client), [], LATE) == []
    assert client.sizes == []


def test_after_a_failure_the_remaining_rows_are_late_and_the_log_counts_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = send(caller(FakeModelClient(fails_from=1)), rows(7), LATE)
    assert answers[:3] == [{"number": number} for number in range(3)]
    assert answers[3:] == [Unreadable("cannot be reached", is_permanent=False, is_late=True)] * 4
    assert "4 of 7 rows stay unanswered: cannot be reached" in caplog.text


def test_a_failure_of_the_first_piece_is_raised() -> None:
    with pytest.raises(ModelServerError, match="cannot be reached"):
        send(caller(FakeModelClient(fails_from=0)), rows(7), LATE)


def test_nothing_is_sent_after_the_deadline() -> None:
    client = FakeModelClient()
    with pytest.raises(ModelServerError, match=LATE):
        send(caller(client, timeout_s=0.0), rows(1), LATE)
    assert client.sizes == []


@pytest.mark.parametrize("kind", ["permanent", "passing"])
def test_the_error_of_a_row_is_why_it_is_unreadable(kind: str) -> None:
    row = PredictRow(kind="labels", input={"error": kind})
    (answer,) = send(caller(FakeModelClient()), [row], LATE)
    assert answer == Unreadable("no picture", is_permanent=kind == "permanent", is_late=False)
