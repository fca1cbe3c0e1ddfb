"""Answers from a stream that gives them whole, or byte by byte."""

from collections.abc import Iterator

import httpcore
import pytest

from lorabel.media.http_answer import LONGEST_HEAD, Answer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LENGTH = OK + b"Content-Length: 5\r\n"


class Sent(httpcore.NetworkStream):
    """Gives what a server has sent, and then its end."""

    def __init__(self, data: bytes, at_once: int = 10**9) -> None:
        self._data, self._at_once, self.given = data, at_once, 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._data[self.given : self.given + min(max_bytes, self._at_once)]
        self.given += len(data)
        return data


def read(data: bytes, at_once: int = 10**9) -> tuple[Answer, bytes]:
    answer = Answer(Sent(data, at_once), 1.0)
    return answer, b"".join(answer.iter_stream())


@pytest.fixture(params=[10**9, 1], ids=["whole", "byte by byte"])
def at_once(request: pytest.FixtureRequest) -> Iterator[int]:
    return request.param


@pytest.mark.parametrize(
    ("data", "body", "is_lasting"),
    [
        pytest.param(LENGTH + b"\r\nhello", b"hello", True, id="length"),
        pytest.param(LENGTH + b"Connection: Keep-Alive , CLOSE\r\n\r\nhello", b"hello", False, id="close"),
        pytest.param(LENGTH + b"\r\nhello and more", b"hello", False, id="more than was said"),
        pytest.param(LENGTH.replace(b"\r", b"") + b"\nhello", b"hello", True, id="bare line feeds"),
        pytest.param(b"HTTP/1.0" + LENGTH[8:] + b"\r\nhello", b"hello", False, id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200\r\n\r\nhello", b"hello", False, id="no reason, until the end"),
        pytest.param(OK + b"\r\n", b"", False, id="nothing until the end"),
        pytest.param(b"HTTP/1.1 204 None\r\n\r\n", b"", True, id="no body"),
        pytest.param(
            b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 103 Soon\r\nX: y\r\n\r\n" + LENGTH + b"\r\nhello", b"hello", True
        ),
        pytest.param(CHUNKED + b"2\r\nhe\r\n00003;x=y\r\nllo\r\n0\r\n\r\n", b"hello", True, id="chunks"),
        pytest.param(
            CHUNKED + b"A \r\n0123456789\r\n0\r\nX: y\r\nZ: z\r\n\r\n", b"0123456789", True, id="trailers"
        ),
        pytest.param(CHUNKED + b"0\r\n\r\n" + OK, b"", False, id="another answer that nobody asked for"),
        pytest.param(
            OK + b"Content-Length: 9\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", b"", True, id="both"
        ),
    ],
)
def test_the_body_and_whether_the_connection_lasts(
    data: bytes, body: bytes, is_lasting: bool, at_once: int
) -> None:
    answer, received = read(data, at_once)
    assert received == body
    if at_once > 1:
        assert answer.is_lasting == is_lasting


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(LENGTH, id="half a head"),
        pytest.param(LENGTH + b"\r\nhell", id="half a body"),
        pytest.param(CHUNKED + b"5\r\nhell", id="half a chunk"),
        pytest.param(CHUNKED + b"5\r\nhello\r\n", id="no last chunk"),
        pytest.param(CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", id="a chunk that is too long"),
        pytest.param(CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", id="a negative size"),
        pytest.param(CHUNKED + b"\r\n", id="no size"),
        pytest.param(OK + b"Content-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(OK + b"Content-Length: +5\r\n\r\nhello", id="a sign"),
        pytest.param(LENGTH + b"Content-Length: 6\r\n\r\nhello!", id="two lengths"),
        pytest.param(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="another coding"),
        pytest.param(OK + b"no header\r\n\r\n", id="a header without colon"),
        pytest.param(OK + b"a b: c\r\n\r\n", id="a name with a space"),
        pytest.param(b"<html>\r\n\r\n", id="no HTTP"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="another protocol than was asked for"),
        pytest.param(OK + b"X: " + b"y" * LONGEST_HEAD * 9 + b"\r\n\r\n", id="a long head"),
        pytest.param(CHUNKED + b"5;" + b"x" * LONGEST_HEAD * 9 + b"\r\n", id="a long line"),
    ],
)
def test_what_is_broken_raises(data: bytes, at_once: int) -> None:
    with pytest.raises(httpcore.RemoteProtocolError):
        read(data, at_once)


def test_a_head_is_not_read_to_its_end_if_it_is_too_long() -> None:
    stream = Sent(OK + b"X: " + b"y" * 10 * LONGEST_HEAD)
    with pytest.raises(httpcore.RemoteProtocolError, match="before the body"):
        Answer(stream, 1.0)
    assert stream.given < 5 * LONGEST_HEAD


def test_headers_have_names_in_lower_case() -> None:
    answer, _ = read(OK + b"Location:\t/a \t\r\nLOCATION: /b\r\nContent-Length: 0\r\n\r\n")
    assert (answer.status, answer.header(b"location"), answer.header(b"gone")) == (200, b"/a", None)


def test_a_body_that_was_not_read_makes_the_connection_end() -> None:
    answer = Answer(Sent(LENGTH + b"\r\nhello"), 1.0)
    assert not answer.is_lasting
