"""Real HTTP on localhost. This is no public address, so it is refused unless a test allows it."""

import base64
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.media import public_addresses
from lorabel.media.fetching import Fetcher
from lorabel.settings import Settings
from tests.serving import serving


@dataclass
class Site:
    """A web server that records the path and the Authorization header of each request."""

    url: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        self.site.requests.append((self.path, self.headers.get("Authorization")))
        if self.path == "/slow":
            time.sleep(1.0)
        if self.path in ("/drip", "/banner"):
            self.write_raw()
            return
        if "/to?" in self.path:
            self.send_response(302)
            self.send_header("Location", self.path.partition("/to?")[2])
            self.end_headers()
            return
        status = int(self.path.removeprefix("/status/")) if self.path.startswith("/status/") else 200
        body = b"x" * (2 * 1024 * 1024 if self.path == "/large" else 5)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True  # the client stopped reading

    def write_raw(self) -> None:
        """The greeting of another protocol, or a header that never ends, one byte at a time."""
        if self.path == "/banner":
            self.wfile.write(b"SSH-2.0-hunter2\r\n")
            return
        try:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            for _ in range(100):
                self.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def site() -> Iterator[Site]:
    yield from serve()


@pytest.fixture
def second_site() -> Iterator[Site]:
    yield from serve()


def serve() -> Iterator[Site]:
    site = Site()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{http.server_port}"
    with serving(http):
        yield site


def fetcher(settings: Settings, **changed: Any) -> Fetcher:
    return Fetcher(settings.model_copy(update={"media_timeout_s": 1.5, "media_max_mb": 1, **changed}))


def reason(fetcher: Fetcher, media: MediaRef) -> tuple[str, bool]:
    with pytest.raises(UnreadableError) as caught:
        fetcher.fetch(media)
    fetcher.close()
    return str(caught.value), caught.value.is_permanent


def test_a_private_address_is_refused_and_the_error_names_the_setting_that_allows_it(
    settings: Settings, site: Site
) -> None:
    text, is_permanent = reason(fetcher(settings), MediaRef(url=f"{site.url}/a"))
    assert "not public" in text
    assert f"add {site.host} to MEDIA_ALLOWED_HOSTS" in text
    assert not is_permanent
    assert site.requests == []


@pytest.mark.slow
def test_a_server_that_sends_its_header_byte_by_byte_is_given_up_in_time(settings: Settings, site: Site) -> None:
    allowed = fetcher(settings, media_allowed_hosts=site.host)
    text, is_permanent = reason(allowed, MediaRef(url=f"{site.url}/drip"))
    assert "ReadTimeout the time for the whole download is over" in text or "ReadTimeout timed out" in text
    assert not is_permanent


def test_spaces_and_letters_beyond_ascii_are_percent_encoded_as_a_browser_does(
    settings: Settings, site: Site
) -> None:
    allowed = fetcher(settings, media_allowed_hosts=site.host)
    assert allowed.fetch(MediaRef(url=f"{site.url}/alte bücher%20.png?q=ü&s=a%2Fb")) == b"xxxxx"
    allowed.close()
    assert site.requests == [("/alte%20b%C3%BCcher%20.png?q=%C3%BC&s=a%2Fb", None)]


@pytest.mark.parametrize("url", ["http://[", "http://h:abc/x.png", "http://h:99999/x.png"])
def test_a_malformed_address_is_unreadable_for_good(settings: Settings, url: str) -> None:
    text, is_permanent = reason(fetcher(settings), MediaRef(url=url))
    assert "is no address" in text and is_permanent


def test_a_password_in_an_address_is_not_in_the_error(settings: Settings) -> None:
    assert "hunter2" not in reason(fetcher(settings), MediaRef(url="http://me:hunter2@127.0.0.1:1/a"))[0]


PRIVATE = (
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:7f00:1::]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[fec0::1]",
    "[64:ff9b:1::1]",
    "169.254.169.254",
    "0.0.0.0",
    "10.0.0.1",
)


@pytest.mark.parametrize("host", PRIVATE)
def test_every_spelling_of_a_private_address_is_refused(settings: Settings, host: str) -> None:
    assert "not public" in reason(fetcher(settings), MediaRef(url=f"http://{host}/a"))[0]


def test_an_allowed_host_is_fetched_but_another_port_of_it_is_not(settings: Settings, site: Site) -> None:
    allowed = fetcher(settings, media_allowed_hosts=f"example.org, {site.host}")
    assert allowed.fetch(MediaRef(url=f"{site.url}/a")) == b"xxxxx"
    assert "not public" in reason(allowed, MediaRef(url="http://127.0.0.1:1/a"))[0]


def test_the_next_address_of_a_host_is_tried_if_the_first_refuses(
    settings: Settings, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name of this machine has two addresses of which the first refuses: the resolver is a double."""
    port = int(site.host.rpartition(":")[2])
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(public_addresses.socket, "getaddrinfo", lambda *_, **__: entries)
    allowed = fetcher(settings, media_allowed_hosts="two.test")
    assert allowed.fetch(MediaRef(url=f"http://two.test:{port}/a")) == b"xxxxx"
    allowed.close()


LABEL_STUDIO_MEDIA = (
    "/data/upload/1/a.png",
    "/data/local-files/?d=a.png",
    "/storage-data/uploaded/?filepath=upload/1/a.png",
    "/tasks/5/resolve/?fileuri=czM6Ly9iL2E=",
    "/projects/1/presign/?fileuri=czM6Ly9iL2E=",
)


@pytest.mark.parametrize("path", LABEL_STUDIO_MEDIA)
def test_label_studio_gets_its_token_for_media_and_may_be_private(
    settings: Settings, site: Site, path: str
) -> None:
    media = MediaRef(url=f"{site.url}{path}", authorization="Token secret", is_trusted=True)
    default = fetcher(settings)
    assert default.fetch(media) == b"xxxxx"
    default.close()
    assert site.requests == [(path, "Token secret")]


@pytest.mark.parametrize(
    "path",
    [
        "/api/current-user/token",
        "/api/projects/1/export?download_all_tasks=true",
        "/data/upload/../../api/current-user/token",
        "/data/upload/%2e%2e/%2e%2e/api/current-user/token",
        "/data/upload/%252e%252e/api/current-user/token",
        "/data/upload",
        "/tasks/5/resolve/../../../api/current-user/token",
    ],
)
def test_the_token_is_sent_to_no_other_path_of_label_studio(settings: Settings, site: Site, path: str) -> None:
    default = fetcher(settings)
    direct = MediaRef(url=f"{site.url}{path}", authorization="Token secret", is_trusted=True)
    redirected = direct.model_copy(update={"url": f"{site.url}/data/upload/to?{path}"})
    based = direct.model_copy(update={"url": f"{site.url}/data/upload/to?/api/1/data/upload/1/a.png"})
    for media in (direct, redirected, based):
        assert default.fetch(media) == b"xxxxx"
    default.close()
    tokens = [token for path, token in site.requests if "/to?" not in path]
    assert tokens == [None, None, None]


def test_a_redirect_from_media_to_media_of_label_studio_keeps_the_token(settings: Settings, site: Site) -> None:
    url = f"{site.url}/data/upload/to?/tasks/5/resolve/?fileuri=x"
    default = fetcher(settings)
    assert default.fetch(MediaRef(url=url, authorization="Token secret", is_trusted=True)) == b"xxxxx"
    default.close()
    assert site.requests[-1] == ("/tasks/5/resolve/?fileuri=x", "Token secret")


@pytest.mark.parametrize("path", ["/banner", "/to?/status/404/hunter2", "/to?http://h:hunter2/", "/to?http://["])
def test_no_error_quotes_what_a_server_answered(settings: Settings, site: Site, path: str) -> None:
    allowed = fetcher(settings, media_allowed_hosts=site.host)
    text, _ = reason(allowed, MediaRef(url=f"{site.url}{path}"))
    without_address = text.replace(repr(site.url + path.partition("?")[0]), "")
    assert "hunter2" not in without_address and "SSH" not in without_address


def test_a_redirect_to_another_origin_loses_token_and_trust(
    settings: Settings, site: Site, second_site: Site
) -> None:
    url = f"{site.url}/data/upload/to?{second_site.url}/data/upload/1/b"
    media = MediaRef(url=url, authorization="Token secret", is_trusted=True)
    assert "not public" in reason(fetcher(settings), media)[0]
    assert second_site.requests == []
    allowed = fetcher(settings, media_allowed_hosts=second_site.host)
    assert allowed.fetch(media) == b"xxxxx"
    allowed.close()
    assert site.requests[-1][1] == "Token secret"
    assert second_site.requests == [("/data/upload/1/b", None)]


def test_endless_redirects_are_given_up(settings: Settings, site: Site) -> None:
    allowed = fetcher(settings, media_allowed_hosts=site.host)
    loop = f"{site.url}/to?/to?" + "/to?" * 10 + "/a"
    assert "redirects more than" in reason(allowed, MediaRef(url=loop))[0]


def test_a_file_that_is_too_large_is_unreadable_for_good_and_one_that_is_too_slow_is_not(
    settings: Settings, site: Site
) -> None:
    def ask(path: str) -> tuple[str, bool]:
        allowed = fetcher(settings, media_allowed_hosts=site.host, media_timeout_s=0.4)
        return reason(allowed, MediaRef(url=f"{site.url}{path}"))

    text, is_permanent = ask("/large")
    assert "larger than 1 MB (MEDIA_MAX_MB)" in text and is_permanent
    text, is_permanent = ask("/slow")
    assert "cannot be downloaded: ReadTimeout" in text and not is_permanent


@pytest.mark.parametrize(("status", "is_permanent"), [(401, False), (404, False), (410, True), (500, False)])
def test_an_error_answer_is_unreadable_for_good_only_if_the_file_is_gone(
    settings: Settings, site: Site, status: int, is_permanent: bool
) -> None:
    allowed = fetcher(settings, media_allowed_hosts=site.host)
    text, is_refused_for_good = reason(allowed, MediaRef(url=f"{site.url}/status/{status}"))
    assert f"answered status {status}" in text
    assert is_refused_for_good is is_permanent


def test_a_signature_in_the_query_is_not_in_the_error(settings: Settings) -> None:
    assert "hunter2" not in reason(fetcher(settings), MediaRef(url="http://127.0.0.1:1/a?sig=hunter2"))[0]


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://example.org/a", "/data/upload/1/a.png", "gopher://x"]
)
def test_other_schemes_are_refused(settings: Settings, url: str) -> None:
    assert "no http(s) address" in reason(fetcher(settings), MediaRef(url=url))[0]


def test_local_files_are_read_only_under_their_root(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.txt").write_bytes(b"inside")
    (tmp_path / "secret.txt").write_bytes(b"outside")
    (tmp_path / "root" / "link.txt").symlink_to(tmp_path / "secret.txt")
    rooted = fetcher(settings, local_files_document_root=tmp_path / "root")
    (tmp_path / "root" / "circle").symlink_to(tmp_path / "root" / "circle")
    for url in ("http://ls/data/local-files/?d=a.txt", "http://ls/labels/data/local-files/?d=a.txt"):
        assert rooted.fetch(MediaRef(url=url, is_label_studio=True)) == b"inside"
    assert rooted.fetch(MediaRef(url="/data/local-files/?d=a.txt")) == b"inside"
    outside = ("../secret.txt", "%2e%2e/secret.txt", "link.txt", str(tmp_path / "secret.txt"), "")
    for path in (*outside, "a%00.txt", "a" * 300, "circle/a"):
        text, _ = reason(rooted, MediaRef(url=f"http://ls/data/local-files/?d={path}", is_label_studio=True))
        assert "no file" in text and len(text) < 300


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("d=a%20b.txt", "a b.txt"),
        ("d=a b.txt", "a b.txt"),
        ("d=a+b.txt", "a b.txt"),
        ("d=a%2Bb.txt", "a+b.txt"),
        ("d=100%25.txt", "100%.txt"),
        ("d=100%.txt", "100%.txt"),
        ("d=%2541.txt", "%41.txt"),
        ("d=/a.txt", "a.txt"),
        ("d=//a.txt", "a.txt"),
        ("d=x/../a.txt", "a.txt"),
        ("d=other.txt&d=a.txt", "a.txt"),
        ("d=%C3%BC.txt", "ü.txt"),
    ],
)
def test_a_local_file_is_the_one_that_label_studios_view_serves(
    settings: Settings, tmp_path: Path, query: str, name: str
) -> None:
    """The names are those that the view of Label Studio 1.23.2 makes of the query."""
    for decoy in ("a b.txt", "a+b.txt", "A.txt", "%41.txt", "100%.txt", "a.txt", "other.txt", "ü.txt"):
        (tmp_path / decoy).write_text(decoy)
    rooted = fetcher(settings, local_files_document_root=tmp_path)
    assert rooted.fetch(MediaRef(url=f"/data/local-files/?{query}")).decode() == name


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/data/local-files/?d=a.txt", "//h/data/local-files/?d=a.txt"])
def test_local_files_are_read_for_no_host_but_label_studio(settings: Settings, tmp_path: Path, url: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"inside")
    text, _ = reason(fetcher(settings, local_files_document_root=tmp_path), MediaRef(url=url))
    assert "not public" in text or "no http(s) address" in text


def test_data_urls_are_read_and_broken_data_urls_are_unreadable_for_good(settings: Settings) -> None:
    default = fetcher(settings)
    assert default.fetch(MediaRef(url="data:text/plain;base64," + base64.b64encode(b"hello").decode())) == b"hello"
    assert reason(default, MediaRef(url="data:text/plain;base64,@@@"))[1]
