"""Downloads: shared, limited per host, and ordered by urgency, from a fake web whose hosts can hang."""

import threading
from collections.abc import Callable, Iterator

import pytest

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.inference.messages import Priority
from lorabel.media.fetching import digest
from model_server.files import MAX_IN_BACKGROUND, MAX_PER_HOST, THREADS, Files

TIMEOUT_S = 10.0


class Web:
    """Answers at once with the address as the content; hosts named `hanging` wait until `released` is set."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.released = threading.Event()

    def fetch(self, media: MediaRef) -> bytes:
        self.requests.append(media.url)
        if "hanging" in media.url:
            assert self.released.wait(TIMEOUT_S)
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
    web.released.set()
    files.close()


def ref(url: str) -> MediaRef:
    return MediaRef(url=url)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("the condition did not become true within 10 s")


def test_a_file_has_the_digest_of_its_content(files: Files) -> None:
    file = files.get(1, ref("http://a/x"), Priority.INTERACTIVE).result(TIMEOUT_S)
    assert (file.data, file.digest) == (b"http://a/x", digest(b"http://a/x"))


def test_a_file_is_fetched_once_for_all_that_wait_for_it(files: Files, web: Web) -> None:
    waiting = [files.get(1, ref("http://hanging/x"), Priority.INTERACTIVE) for _ in range(20)]
    web.released.set()
    assert {future.result(TIMEOUT_S).data for future in waiting} == {b"http://hanging/x"}
    assert web.requests == ["http://hanging/x"]


def test_a_host_that_hangs_does_not_delay_other_hosts(files: Files, web: Web) -> None:
    hanging = [files.get(1, ref(f"http://hanging/{i}"), Priority.INTERACTIVE) for i in range(1000)]
    assert files.get(1, ref("http://quick/x"), Priority.BULK).result(TIMEOUT_S).data == b"http://quick/x"
    assert sum("hanging" in url for url in web.requests) <= MAX_PER_HOST
    web.released.set()
    assert len({future.result(TIMEOUT_S).data for future in hanging}) == 1000


def test_interactive_downloads_overtake_bulk_downloads_from_the_same_host(files: Files, web: Web) -> None:
    bulk = [files.get(1, ref(f"http://hanging/{i}"), Priority.BULK) for i in range(200)]
    held_back = len(bulk) - MAX_PER_HOST
    wait_until(lambda: "hanging" in files._held_back and len(files._held_back["hanging"]) == held_back)
    interactive = files.get(2, ref("http://hanging/person"), Priority.INTERACTIVE)
    upgraded = files.get(1, ref("http://hanging/199"), Priority.INTERACTIVE)
    assert upgraded is bulk[199], "the same download, which is now more urgent"
    wait_until(lambda: len(files._held_back["hanging"]) == held_back + 2)
    web.released.set()
    assert [future.result(TIMEOUT_S).data for future in (interactive, upgraded)] == [
        b"http://hanging/person",
        b"http://hanging/199",
    ]
    assert all(future.result(TIMEOUT_S) for future in bulk)
    position = {url: index for index, url in enumerate(web.requests)}
    assert max(position["http://hanging/person"], position["http://hanging/199"]) < 2 * MAX_PER_HOST + 4
    assert len(web.requests) == len(set(web.requests)) == 201


def test_the_digest_of_a_file_is_remembered_for_some_time_and_for_its_project_only(files: Files, web: Web) -> None:
    content_digest = files.get(1, ref("http://a/x"), Priority.INTERACTIVE).result(TIMEOUT_S).digest
    assert files.recent_digest(1, ref("http://a/x")) == content_digest
    assert files.recent_digest(2, ref("http://a/x")) is None
    without_memory = Files(web.fetch, fresh_s=0)
    without_memory.get(1, ref("http://a/x"), Priority.INTERACTIVE).result(TIMEOUT_S)
    assert without_memory.recent_digest(1, ref("http://a/x")) is None
    without_memory.close()


def test_a_failed_download_raises_and_the_next_request_tries_again(files: Files, web: Web) -> None:
    for _ in range(2):
        with pytest.raises(UnreadableError, match="gone"):
            files.get(1, ref("http://gone/x"), Priority.INTERACTIVE).result(TIMEOUT_S)
    assert len(web.requests) == 2
    assert files.recent_digest(1, ref("http://gone/x")) is None


def test_many_hosts_that_hang_leave_threads_for_interactive_downloads(files: Files, web: Web) -> None:
    hosts = 2 * THREADS // MAX_PER_HOST
    bulk = [files.get(1, ref(f"http://hanging{i % hosts}/{i}"), Priority.BULK) for i in range(4 * THREADS)]
    wait_until(lambda: len(web.requests) == MAX_IN_BACKGROUND)
    assert files.get(2, ref("http://quick/x"), Priority.INTERACTIVE).result(TIMEOUT_S).data == b"http://quick/x"
    web.released.set()
    assert len({future.result(TIMEOUT_S).data for future in bulk}) == len(bulk)


def test_downloads_behind_replaced_downloads_are_fetched_too(files: Files, web: Web) -> None:
    bulk = [files.get(1, ref(f"http://hanging/{i}"), Priority.BULK) for i in range(150)]
    wait_until(lambda: "hanging" in files._held_back and len(files._held_back["hanging"]) == 150 - MAX_PER_HOST)
    for i in range(100, 150):
        files.get(1, ref(f"http://hanging/{i}"), Priority.INTERACTIVE)
    web.released.set()
    assert len({future.result(TIMEOUT_S).data for future in bulk}) == 150


@pytest.mark.parametrize("url", ["http://[bad", "data://[x", "http://", "nonsense"])
def test_an_invalid_address_does_not_block_a_thread(files: Files, web: Web, url: str) -> None:
    def fetch(media: MediaRef) -> bytes:
        raise UnreadableError(f"{media.url} is no address", is_permanent=True)

    failing = Files(fetch, fresh_s=0)
    for _ in range(2 * THREADS):
        with pytest.raises(UnreadableError, match="is no address"):
            failing.get(1, ref(url), Priority.BULK).result(TIMEOUT_S)
    failing.close()


def test_a_renewed_token_does_not_fetch_a_file_again_that_is_being_fetched(files: Files, web: Web) -> None:
    first = files.get(1, MediaRef(url="http://hanging/x", authorization="Bearer old"), Priority.LOOKAHEAD)
    second = files.get(1, MediaRef(url="http://hanging/x", authorization="Bearer new"), Priority.INTERACTIVE)
    web.released.set()
    assert first.result(TIMEOUT_S) is second.result(TIMEOUT_S)
    assert len(web.requests) == 1
