"""The body of /v1/predict: each content once, limits while it is read, and pieces by rows and by bytes."""

import json
import tracemalloc
from typing import Any

import pytest
from pydantic import ValidationError

from lorabel.contracts import Content, MediaRef, Modality, RankingInput
from lorabel.errors import BadRequestError, RequestTooLargeError
from lorabel.inference import request_body
from lorabel.inference.messages import PredictRequest, PredictRow, Priority
from lorabel.inference.request_body import decode, encode, pieces
from tests import questions
from tests.questions import about_picture, about_text

PICTURE = "data:image/png;base64," + "A" * 30_000


def request(*rows: PredictRow, **fields: Any) -> PredictRequest:
    return PredictRequest(rows=list(rows), timeout_s=5.0, **fields)


def picture_row(url: str, *labels: str) -> PredictRow:
    return questions.row(about_picture(url, labels or ("red", "blue")))


def test_a_request_is_read_as_it_was_written() -> None:
    item = Content(modality=Modality.TEXT, text="Żółw 😀 \"'\\ \n\x07")
    ranking = RankingInput(contents=(item, item, item), item_indices=(-1, 0, 1))
    written = request(
        picture_row(PICTURE, "red", "blue"),
        picture_row(PICTURE, "big", "small"),
        questions.row(about_text(item.text or "", ("a",)), adapter="p1.v2/label"),
        questions.row(ranking),
        PredictRow(kind="other", input={"number": 1, "contents": "not a list"}),
        project=7,
        priority=Priority.BULK,
    )
    assert decode(encode(written), max_rows=5) == written


def test_a_picture_that_two_control_tags_ask_about_is_sent_once() -> None:
    once, twice = encode(request(picture_row(PICTURE))), encode(request(*[picture_row(PICTURE)] * 2))
    assert len(once) > len(PICTURE)
    assert len(twice) < len(once) + 1000
    assert twice.count(PICTURE.encode()) == 1


def test_the_same_address_with_another_token_or_as_a_video_is_another_content() -> None:
    plain, with_token, video = (
        questions.row(about_picture("x", ("a",)).model_copy(update={"contents": (content,)}))
        for content in (
            Content(modality=Modality.IMAGE, media=MediaRef(url="x")),
            Content(modality=Modality.IMAGE, media=MediaRef(url="x", authorization="Token t", is_trusted=True)),
            Content(modality=Modality.VIDEO, media=MediaRef(url="x")),
        )
    )
    written = request(plain, with_token, video, plain)
    body = encode(written)
    assert len(json.loads(body)["contents"]) == 3
    assert decode(body, max_rows=4) == written


def test_rows_that_have_their_contents_in_them_can_be_read() -> None:
    written = request(picture_row("x"), picture_row("y"))
    assert decode(written.model_dump_json().encode(), max_rows=2) == written


def test_a_request_with_too_many_rows_is_refused_before_the_rest_is_read() -> None:
    row = b'{"kind":"labels","input":{}}'
    few = b'{"rows":[' + b",".join([row] * 3) + b'],"timeout_s":5}'
    assert len(decode(few, max_rows=3).rows) == 3
    body = b'{"rows":[' + b",".join([row] * 200_000) + b'],"timeout_s":5}'
    tracemalloc.start()
    with pytest.raises(RequestTooLargeError, match=r"more than 2048 rows \(MAX_WAITING\)"):
        decode(body, max_rows=2048)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(body), "the body as text, and a few rows"


def test_names_of_fields_may_be_escaped_and_are_counted_all_the_same() -> None:
    body = b'{"rows":[' + b",".join([rb'{"k\u0069nd":"labels","input":{}}'] * 4) + b'],"timeout_s":5}'
    with pytest.raises(RequestTooLargeError):
        decode(body, max_rows=3)


def test_a_request_with_too_many_objects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_body, "MAX_OBJECTS", 100)
    body = b'{"rows":[{"kind":"labels","input":{"labels":[' + b",".join([b"{}"] * 200) + b']}}],"timeout_s":5}'
    with pytest.raises(RequestTooLargeError, match="more than 100 JSON objects"):
        decode(body, max_rows=10)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"[" * 100_000, b'{"rows": [', b"1" * 10_000],
    ids=["empty", "not UTF-8", "nested deeply", "broken off", "digits"],
)
def test_what_is_no_json_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequestError, match="cannot be read as JSON"):
        decode(body, max_rows=10)


@pytest.mark.parametrize("index", [1, -1, 10**30])
def test_a_row_that_names_a_content_that_is_not_there_is_a_bad_request(index: int) -> None:
    fields = {
        "contents": [{"modality": "text", "text": "a"}],
        "rows": [{"kind": "labels", "input": {"contents": [index]}}],
        "timeout_s": 5,
    }
    with pytest.raises(BadRequestError, match=rf"names content {index}, and the request has 1 contents"):
        decode(json.dumps(fields).encode(), max_rows=10)


@pytest.mark.parametrize("contents", [3, "abc", {"a": 1}, [1, 2]])
def test_contents_of_another_type_are_a_bad_request(contents: Any) -> None:
    fields = {"contents": contents, "rows": [{"kind": "labels", "input": {"contents": [0]}}], "timeout_s": 5}
    with pytest.raises(BadRequestError, match="contents"):
        decode(json.dumps(fields).encode(), max_rows=10)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'{"rows": [], "timeout_s": 1}'])
def test_json_that_is_no_request_is_invalid(body: bytes) -> None:
    with pytest.raises(ValidationError):
        decode(body, max_rows=10)


def sizes(rows: list[PredictRow], max_rows: int = 100, max_bytes: int = 10**9) -> list[int]:
    divided = list(pieces(rows, max_rows, max_bytes))
    assert [row for piece in divided for row in piece] == rows
    for piece in divided:
        assert len(piece) == 1 or len(encode(request(*piece))) < max_bytes + 1000
    return [len(piece) for piece in divided]


def test_pieces_have_at_most_so_many_rows() -> None:
    rows = [picture_row(f"{number}.png") for number in range(7)]
    assert sizes(rows, max_rows=3) == [3, 3, 1]
    assert sizes(rows) == [7]
    assert sizes([]) == []


def test_pieces_have_at_most_so_many_bytes_and_a_shared_picture_counts_once() -> None:
    rows = [picture_row(f"{PICTURE}{number}") for number in range(5)]
    assert sizes(rows, max_bytes=70_000) == [2, 2, 1]
    two_tags = [row for row in rows for _ in range(2)]
    assert sizes(two_tags, max_bytes=70_000) == [4, 4, 2]


def test_a_row_that_is_too_large_is_a_piece_of_its_own() -> None:
    rows = [picture_row("small.png"), picture_row(PICTURE), picture_row("small.png"), picture_row("other.png")]
    assert sizes(rows, max_bytes=10_000) == [1, 1, 2]
