"""Heads that come again are what they were the first time, whatever was done with the first."""

from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidHeader

from lorabel.http_server.heads import LONGEST_REMEMBERED, MOST_HEADS, Heads
from lorabel.http_server.request_reader import RequestReader

HERE, ELSEWHERE = ("127.0.0.1", 50_000), ("192.0.2.7", 50_000)


@pytest.fixture
def heads() -> Heads:
    return Heads(Config())


def head(*lines: str, target: str = "/predict?a=1") -> bytes:
    return "\r\n".join((f"POST {target} HTTP/1.1", "Host: here", *lines, "", "")).encode()


def told(request: Any) -> tuple[Any, ...]:
    return request.method, request.path, request.query, request.headers, request.scheme, request.should_close()


def test_a_head_that_comes_again_says_the_same_and_knows_its_own_client(heads: Heads) -> None:
    sent = head("Content-Length: 3", "X-Word: a", "Connection: close")
    first, second = heads.parse(sent, HERE), heads.parse(sent, ("127.0.0.1", 50_001))
    assert told(first) == told(second)
    assert told(first)[:3] == ("POST", "/predict", "a=1")
    assert ("X-WORD", "a") in first.headers
    assert first.should_close()
    assert (first.peer_addr, second.peer_addr) == (HERE, ("127.0.0.1", 50_001))


def test_what_is_done_with_a_request_does_not_change_the_next(heads: Heads) -> None:
    sent = head("Content-Length: 3")
    first = heads.parse(sent, HERE)
    first.body, first.headers = b"abc", []
    first.force_close()
    second = heads.parse(sent, HERE)
    assert second.body != b"abc"
    assert second.headers == [("HOST", "here"), ("CONTENT-LENGTH", "3")]
    assert not second.should_close()


def test_headers_of_a_proxy_are_believed_by_the_host_that_sends_them(heads: Heads) -> None:
    sent = head("X-Forwarded-Proto: https")
    for _ in range(2):
        assert heads.parse(sent, HERE).scheme == "https"
        assert heads.parse(sent, ELSEWHERE).scheme == "http"


def test_a_head_that_is_wrong_stays_wrong(heads: Heads) -> None:
    for _ in range(2):
        with pytest.raises(InvalidHeader):
            heads.parse(head("Content-Length: 3", "Content-Length: 3"), HERE)


def test_memory_is_limited(heads: Heads) -> None:
    long = head("X-Word: " + "a" * LONGEST_REMEMBERED)
    assert told(heads.parse(long, HERE)) == told(heads.parse(long, HERE))
    assert len(heads._requests) == 0
    for number in range(MOST_HEADS + 1):
        heads.parse(head(f"Content-Length: {number}"), HERE)
    assert len(heads._requests) == MOST_HEADS


def test_a_client_that_waits_to_continue_is_told_so_each_time(heads: Heads) -> None:
    continued: list[int] = []
    reader = RequestReader(heads, HERE, 100, lambda: continued.append(1))
    for number in (1, 2):
        reader.feed(head("Content-Length: 3", "Expect: 100-continue"))
        assert reader.next_request() is None
        assert len(continued) == number
        reader.feed(b"abc")
        request = reader.next_request()
        assert request is not None
        assert request.body.read() == b"abc"
