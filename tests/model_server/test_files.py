import threading
from collections.abc import Callable, Iterator

import pytest

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.inference.messages import Priority
from lorabel.media.fetching import digest
from model_server.files import MOST_IN_BACKGROUND, MOST_PER_HOST, THREADS, Files

TIMEOUT_S = 10.0


class Web:
    """Answers at once, but for hosts that hang until they are let go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()

    def fetch(self, media: MediaRef) -> bytes:
        self.asked.append(media.url)
        if "hanging" in media.url:
            assert self.go.wait(TIMEOUT_S)
        if "gone" in media.url:
            raise UnreadableError("gone", is_permanent=True)
        return media.url.encode()


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def files(web: Web) -> Iterator[Files]:
    files = Files(web.fetch, fresh_s=60)
    yield files
    web.go.set()
    files.close()


def ref(url: str) -> MediaRef:
    return MediaRef(url=url)


def until(is_true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to be")


def test_a_file_comes_with_the_digest_of_its_content(files: Files) -> None:
    file = files.get(1, ref("http://a/x"), Priority.INTERACTIVE).result(TIMEOUT_S)
    assert (file.data, file.digest) == (b"http://a/x", digest(b"http://a/x"))


def test_a_file_is_fetched_once_however_many_wait_for_it(files: Files, web: Web) -> None:
    waiting = [files.get(1, ref("http://hanging/x"), Priority.INTERACTIVE) for _ in range(20)]
    web.go.set()
    assert {future.result(TIMEOUT_S).data for future in waiting} == {b"http://hanging/x"}
    assert web.asked == ["http://hanging/x"]


def test_a_host_that_hangs_holds_up_no_other(files: Files, web: Web) -> None:
    hanging = [files.get(1, ref(f"http://hanging/{i}"), Priority.INTERACTIVE) for i in range(1000)]
    assert files.get(1, ref("http://quick/x"), Priority.BULK).result(TIMEOUT_S).data == b"http://quick/x"
    assert sum("hanging" in url for url in web.asked) <= MOST_PER_HOST
    web.go.set()
    assert len({future.result(TIMEOUT_S).data for future in hanging}) == 1000


def test_a_person_overtakes_a_bulk_job_at_the_same_host(files: Files, web: Web) -> None:
    bulk = [files.get(1, ref(f"http://hanging/{i}"), Priority.BULK) for i in range(200)]
    left = len(bulk) - MOST_PER_HOST
    until(lambda: "hanging" in files._held_back and len(files._held_back["hanging"]) == left)
    person = files.get(2, ref("http://hanging/person"), Priority.INTERACTIVE)
    same = files.get(1, ref("http://hanging/199"), Priority.INTERACTIVE)
    assert same is bulk[199], "it waits already, now with another urgency"
    until(lambda: len(files._held_back["hanging"]) == left + 2)
    web.go.set()
    assert [future.result(TIMEOUT_S).data for future in (person, same)] == [
        b"http://hanging/person",
        b"http://hanging/199",
    ]
    assert all(future.result(TIMEOUT_S) for future in bulk)
    order = {url: place for place, url in enumerate(web.asked)}
    assert max(order["http://hanging/person"], order["http://hanging/199"]) < 2 * MOST_PER_HOST + 4
    assert len(web.asked) == len(set(web.asked)) == 201


def test_what_a_file_was_is_known_for_a_while_to_its_project_alone(files: Files, web: Web) -> None:
    content = files.get(1, ref("http://a/x"), Priority.INTERACTIVE).result(TIMEOUT_S).digest
    assert files.known_digest(1, ref("http://a/x")) == content
    assert files.known_digest(2, ref("http://a/x")) is None
    stale = Files(web.fetch, fresh_s=0)
    stale.get(1, ref("http://a/x"), Priority.INTERACTIVE).result(TIMEOUT_S)
    assert stale.known_digest(1, ref("http://a/x")) is None
    stale.close()


def test_a_failure_is_told_to_all_who_wait_and_the_next_one_tries_again(files: Files, web: Web) -> None:
    for _ in range(2):
        with pytest.raises(UnreadableError, match="gone"):
            files.get(1, ref("http://gone/x"), Priority.INTERACTIVE).result(TIMEOUT_S)
    assert len(web.asked) == 2
    assert files.known_digest(1, ref("http://gone/x")) is None


def test_hosts_that_hang_leave_threads_to_people_however_many_they_are(files: Files, web: Web) -> None:
    hosts = 2 * THREADS // MOST_PER_HOST
    bulk = [files.get(1, ref(f"http://hanging{i % hosts}/{i}"), Priority.BULK) for i in range(4 * THREADS)]
    until(lambda: len(web.asked) == MOST_IN_BACKGROUND)
    assert files.get(2, ref("http://quick/x"), Priority.INTERACTIVE).result(TIMEOUT_S).data == b"http://quick/x"
    web.go.set()
    assert len({future.result(TIMEOUT_S).data for future in bulk}) == len(bulk)


def test_those_behind_orders_that_were_overtaken_are_fetched_too(files: Files, web: Web) -> None:
    bulk = [files.get(1, ref(f"http://hanging/{i}"), Priority.BULK) for i in range(150)]
    until(lambda: "hanging" in files._held_back and len(files._held_back["hanging"]) == 150 - MOST_PER_HOST)
    for i in range(100, 150):
        files.get(1, ref(f"http://hanging/{i}"), Priority.INTERACTIVE)
    web.go.set()
    assert len({future.result(TIMEOUT_S).data for future in bulk}) == 150


@pytest.mark.parametrize("url", ["http://[bad", "data://[x", "http://", "nonsense"])
def test_an_address_that_is_none_fails_alone(files: Files, web: Web, url: str) -> None:
    def fetch(media: MediaRef) -> bytes:
        raise UnreadableError(f"{media.url} is no address", is_permanent=True)

    strict = Files(fetch, fresh_s=0)
    for _ in range(2 * THREADS):
        with pytest.raises(UnreadableError, match="is no address"):
            strict.get(1, ref(url), Priority.BULK).result(TIMEOUT_S)
    strict.close()


def test_a_token_that_was_renewed_meanwhile_does_not_fetch_the_file_again(files: Files, web: Web) -> None:
    first = files.get(1, MediaRef(url="http://hanging/x", authorization="Bearer old"), Priority.LOOKAHEAD)
    second = files.get(1, MediaRef(url="http://hanging/x", authorization="Bearer new"), Priority.INTERACTIVE)
    web.go.set()
    assert first.result(TIMEOUT_S) is second.result(TIMEOUT_S)
    assert len(web.asked) == 1
