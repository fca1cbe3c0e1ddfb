"""URL -> bytes. No other module fetches media.

Strangers write the data of tasks, so URLs in it are fetched only over http(s), and only from public addresses,
from Label Studio's host and from the hosts in MEDIA_ALLOWED_HOSTS. The address is checked after the host's name
has been resolved, where the connection is made: so the name cannot be pointed to another address after the check.
A proxy is asked for the address that was checked (docs/decisions/0004-media-guard-at-connect-time.md).

Label Studio's token goes to the paths of its media only, and no message quotes what a server answered: else a task
could read with the token what its author may not see.
"""

import hashlib
import math
import ssl
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import httpcore

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.media import data_url
from lorabel.media.connections import Connections
from lorabel.media.http_answer import Answer
from lorabel.media.label_studio_paths import is_local_file, local_file_path, media_base
from lorabel.media.proxy_tunnel import open_tunnel
from lorabel.media.public_addresses import ForbiddenAddressError, public_addresses, resolved
from lorabel.network import PROXY_SCHEMES, proxy_for, tls_context
from lorabel.settings import Settings

MOST_REDIRECTS = 5
MEGABYTE = 1024 * 1024
# Characters of a URL that are not percent-encoded.
KEPT_IN_URLS = "%/:=&?~#+!$,;'@()*[]"
MOST_SHOWN = 120
REDIRECTS = (301, 302, 303, 307, 308)
GONE = 410


class Fetcher:
    """Fetches files, and keeps connections to reuse them. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        for scheme in PROXY_SCHEMES:
            proxy_for(f"{scheme}://media.example")  # a wrong variable is an error here, not of each download
        allowed_hosts = [host.strip().lower() for host in settings.media_allowed_hosts.split(",") if host.strip()]
        self._limit = _Limit()
        self._guarded = Connections(_Backend(frozenset(allowed_hosts), self._limit))
        self._trusted = Connections(_Backend(None, self._limit))

    def fetch(self, media: MediaRef) -> bytes:
        """Fetch a file: from its data URL, from LOCAL_FILES_DOCUMENT_ROOT, or over http(s).

        Raises:
            UnreadableError: for now, if the address is forbidden, unreachable or too slow; for good, if the file
                is too large or gone (410), or the address is malformed.
        """
        if data_url.is_data_url(media.url):
            return self._checked_size(data_url.decode(media.url), _shown(media.url))
        media = media.model_copy(update={"url": ascii_url(media.url)})
        scheme = urlsplit(media.url).scheme
        root = self._settings.local_files_document_root
        is_in_label_studio = media.is_label_studio or not (scheme or urlsplit(media.url).netloc)
        if root is not None and is_in_label_studio and is_local_file(media.url):
            return self._read_local(media.url, root)
        if scheme not in ("http", "https"):
            raise UnreadableError(
                f"media {_shown(media.url)} has no http(s) address; "
                "if it lies in Label Studio, set LABEL_STUDIO_URL",
                is_permanent=False,
            )
        return self._download(media)

    def close(self) -> None:
        """Close all connections."""
        self._guarded.close()
        self._trusted.close()

    def _download(self, media: MediaRef) -> bytes:
        """Follow redirects. The trust goes no further than the media's own origin."""
        url = media.url
        self._limit.ends_at = time.monotonic() + self._settings.media_timeout_s
        for _ in range(MOST_REDIRECTS + 1):
            is_trusted = media.is_trusted and origin(url) == origin(media.url)
            connections = self._trusted if is_trusted else self._guarded
            self._limit.scheme = urlsplit(url).scheme
            try:
                with connections.get(url, _headers(media, url), self._settings.media_timeout_s) as answer:
                    if answer.status not in REDIRECTS:
                        return self._read(answer, _reached(media, url))
                    url = _redirected(url, answer, _reached(media, url))
            except ForbiddenAddressError as error:
                raise UnreadableError(str(error), is_permanent=False) from error
            except httpcore.ProtocolError as error:
                # The error itself quotes the answer.
                raise UnreadableError(
                    f"{_reached(media, url)} cannot be downloaded: its answer is broken", is_permanent=False
                ) from error
            except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
                raise UnreadableError(
                    f"{_reached(media, url)} cannot be downloaded: {type(error).__name__} {error}",
                    is_permanent=False,
                ) from error
            except (httpcore.UnsupportedProtocol, ValueError) as error:
                raise UnreadableError(f"{_reached(media, url)} is no address", is_permanent=False) from error
        raise UnreadableError(
            f"{_shown(media.url)} redirects more than {MOST_REDIRECTS} times", is_permanent=False
        )

    def _read(self, answer: Answer, name: str) -> bytes:
        if answer.status >= 300:
            raise UnreadableError(f"{name} answered status {answer.status}", is_permanent=answer.status == GONE)
        data = bytearray()
        for part in answer.iter_stream():
            data += part
            self._check_size(len(data), name)
        return bytes(data)

    def _read_local(self, url: str, root: Path) -> bytes:
        """Read a file that Label Studio would serve as `/data/local-files/?d=folder/file.png`.

        See https://labelstud.io/guide/storage.html#Local-storage.
        """
        relative_path = local_file_path(url)
        missing = f"no file {relative_path[:MOST_SHOWN]!r} under LOCAL_FILES_DOCUMENT_ROOT"
        try:
            path = (root / relative_path).resolve()
            if not path.is_relative_to(root.resolve()) or not path.is_file():
                raise UnreadableError(missing, is_permanent=False)
            self._check_size(path.stat().st_size, _shown(url))
            return path.read_bytes()
        except (OSError, ValueError, RuntimeError) as error:  # a zero byte, and links in a circle
            raise UnreadableError(f"{missing} can be read: {type(error).__name__}", is_permanent=False) from error

    def _checked_size(self, data: bytes, name: str) -> bytes:
        self._check_size(len(data), name)
        return data

    def _check_size(self, size: int, name: str) -> None:
        if size > self._settings.media_max_mb * MEGABYTE:
            raise UnreadableError(
                f"{name} is larger than {self._settings.media_max_mb} MB (MEDIA_MAX_MB)", is_permanent=True
            )


def digest(data: bytes) -> str:
    """The BLAKE2b digest of a file, 32 hex digits: names its content, wherever it came from."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class _Limit(threading.local):
    """What a connection must know of the download of this thread.

    Attributes:
        ends_at: when the download must have ended, in seconds of the monotonic clock.
        scheme: of the address that is requested now.
    """

    ends_at: float = math.inf
    scheme: str = "https"

    def seconds_left(self, timeout: float | None) -> float:
        """The timeout in seconds, shortened to the time that is left.

        Raises:
            httpcore.ReadTimeout: no time is left.
        """
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for the whole download is over")
        return left if timeout is None else min(timeout, left)


class _TimedStream(httpcore.NetworkStream):
    """A network stream whose reads and writes share the time of the download.

    A timeout for each read alone would not stop a server that sends a header byte by byte.
    """

    def __init__(self, inner: httpcore.NetworkStream, limit: _Limit) -> None:
        self._inner, self._limit = inner, limit

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._limit.seconds_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._limit.seconds_left(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        secured = self._inner.start_tls(ssl_context, server_hostname, self._limit.seconds_left(timeout))
        return _TimedStream(secured, self._limit)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Connects to public addresses and to allowed hosts.

    Args:
        allowed_hosts: each `host` or `host:port`, in lower case; None allows all hosts.
    """

    def __init__(self, allowed_hosts: frozenset[str] | None, limit: _Limit) -> None:
        self._allowed_hosts, self._limit = allowed_hosts, limit
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        names = {host.lower(), f"{host.lower()}:{port}"}
        is_allowed = self._allowed_hosts is None or names & self._allowed_hosts
        proxy = proxy_for(f"{self._limit.scheme}://{f'[{host}]' if ':' in host else host}:{port}")

        def connect(address: str) -> httpcore.NetworkStream:
            if proxy is not None:
                return self._connect_by_proxy(proxy, address, port, timeout)
            return self._connect(address, port, timeout, local_address, socket_options)

        if proxy is not None and is_allowed:
            return connect(host)
        try:
            addresses = resolved(host, port) if is_allowed else public_addresses(host, port)
        except httpcore.ConnectError as error:
            hint = f"; if only the proxy knows it, add {host}:{port} to MEDIA_ALLOWED_HOSTS" if proxy else ""
            raise httpcore.ConnectError(f"{error}{hint}") from error
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return connect(address)
        return connect(addresses[-1])

    def _connect_by_proxy(self, proxy: str, host: str, port: int, timeout: float | None) -> httpcore.NetworkStream:
        """Connect through a proxy to an address that was checked, or by name to a host that is allowed."""
        parts = urlsplit(proxy)
        proxy_port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        stream = self._connect(parts.hostname or "", proxy_port, timeout, None, None)
        return open_tunnel(stream, parts, host, port, timeout, tls_context())

    def _connect(
        self,
        address: str,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None,
    ) -> httpcore.NetworkStream:
        seconds_left = self._limit.seconds_left(timeout)
        stream = self._plain.connect_tcp(address, port, seconds_left, local_address, socket_options)
        return _TimedStream(stream, self._limit)


def ascii_url(url: str) -> str:
    """The URL as a browser would send it: characters percent-encoded, the host in IDNA.

    Raises:
        UnreadableError: for good; the URL is malformed.
    """
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").encode("idna").decode() if not (parts.hostname or "").isascii() else None
        port = f":{parts.port}" if parts.port is not None else ""
        netloc = parts.netloc if host is None else f"{host}{port}"
    except ValueError as error:
        raise UnreadableError(f"{_shown(url)} is no address: {error}", is_permanent=True) from error
    path, query = quote(parts.path, safe=KEPT_IN_URLS), quote(parts.query, safe=KEPT_IN_URLS)
    return urlunsplit((parts.scheme.lower(), netloc, path, query, ""))


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port of a URL. A token is sent to its own origin only."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _headers(media: MediaRef, url: str) -> dict[str, str]:
    """The headers of a request for `url`, the media's own or where it was redirected.

    The token is sent to Label Studio's media paths only, also after redirects.
    """
    headers = {"Host": _host_header(url)}
    base = media_base(media.url)
    if media.authorization and base is not None and (origin(url), media_base(url)) == (origin(media.url), base):
        headers["Authorization"] = media.authorization
    return headers


def _redirected(url: str, answer: Answer, name: str) -> str:
    """The address to which the answer redirects."""
    location = answer.header(b"location")
    if location is None:
        raise UnreadableError(f"{name} redirects to nowhere", is_permanent=False)
    try:
        return ascii_url(urljoin(url, location.decode("latin-1")))
    except (UnreadableError, ValueError) as error:
        # The error itself quotes the answer.
        raise UnreadableError(f"{name} redirects to what is no address", is_permanent=False) from error


def _reached(media: MediaRef, url: str) -> str:
    """The media's address for a message, with the host to which it was redirected, but no more of that address."""
    if url == media.url:
        return _shown(url)
    return f"{_shown(media.url)}, redirected to {_host_header(url)[:MOST_SHOWN]!r},"


def _host_header(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _shown(url: str) -> str:
    """The URL for a message: without the query, which may hold a signature, and without a password."""
    scheme, separator, rest = url.split("?")[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return repr(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"[:MOST_SHOWN])
