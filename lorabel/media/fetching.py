"""URL -> bytes. No other module fetches media.

Strangers write the data of tasks, so URLs in it are fetched only over http(s), and only from public addresses,
from Label Studio's host and from the hosts in MEDIA_ALLOWED_HOSTS. The address is checked after the host's name
has been
resolved, where the connection is made: so the name cannot be pointed to another address after the check.
"""

import base64
import binascii
import hashlib
import ipaddress
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urljoin, urlsplit, urlunsplit

import httpcore

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.settings import Settings

MOST_REDIRECTS = 5
LOCAL_FILES_PATH = "/data/local-files/"
MEGABYTE = 1024 * 1024
# Characters of a URL that are not percent-encoded.
KEPT_IN_URLS = "%/:=&?~#+!$,;'@()*[]"
REDIRECTS = (301, 302, 303, 307, 308)
GONE = 410
# IPv6 addresses that stand for IPv4 addresses (RFC 6052).
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Fetcher:
    """Fetches files, and keeps connections to reuse them. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        allowed_hosts = [host.strip().lower() for host in settings.media_allowed_hosts.split(",") if host.strip()]
        self._limit = _Limit()
        self._guarded = _pool(_Backend(frozenset(allowed_hosts), self._limit))
        self._trusted = _pool(_Backend(None, self._limit))

    def fetch(self, media: MediaRef) -> bytes:
        """Fetch a file: from its data URL, from LOCAL_FILES_DOCUMENT_ROOT, or over http(s).

        Raises:
            UnreadableError: for now, if the address is forbidden, unreachable or too slow; for good, if the file
                is too large or gone (410), or the address is malformed.
        """
        if media.url.startswith("data:"):
            return self._checked_size(_decode_data_url(media.url), media.url)
        media = media.model_copy(update={"url": ascii_url(media.url)})
        scheme, path = urlsplit(media.url).scheme, urlsplit(media.url).path
        if path.startswith(LOCAL_FILES_PATH) and self._settings.local_files_document_root is not None:
            return self._read_local(media.url, self._settings.local_files_document_root)
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
        """Follow redirects. The token and the trust go no further than the media's own origin."""
        url = media.url
        self._limit.ends_at = time.monotonic() + self._settings.media_timeout_s
        for _ in range(MOST_REDIRECTS + 1):
            is_same_origin = origin(url) == origin(media.url)
            pool = self._trusted if media.is_trusted and is_same_origin else self._guarded
            headers: dict[bytes | str, bytes | str] = {"Host": _host_header(url)}
            if media.authorization and is_same_origin:
                headers["Authorization"] = media.authorization
            try:
                with pool.stream("GET", url, headers=headers, extensions=self._timeouts()) as answer:
                    if answer.status in REDIRECTS:
                        location = dict(answer.headers).get(b"Location") or dict(answer.headers).get(b"location")
                        if location is None:
                            raise UnreadableError(f"{_shown(url)} redirects to nowhere", is_permanent=False)
                        url = ascii_url(urljoin(url, location.decode("latin-1")))
                        continue
                    return self._read(answer, url)
            except _ForbiddenAddressError as error:
                raise UnreadableError(str(error), is_permanent=False) from error
            except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
                raise UnreadableError(
                    f"{_shown(url)} cannot be downloaded: {type(error).__name__} {error}", is_permanent=False
                ) from error
            except (httpcore.UnsupportedProtocol, ValueError) as error:
                raise UnreadableError(f"{_shown(url)} is no address: {error}", is_permanent=False) from error
        raise UnreadableError(
            f"{_shown(media.url)} redirects more than {MOST_REDIRECTS} times", is_permanent=False
        )

    def _read(self, answer: httpcore.Response, url: str) -> bytes:
        if answer.status >= 300:
            raise UnreadableError(
                f"{_shown(url)} answered status {answer.status}", is_permanent=answer.status == GONE
            )
        parts, size = [], 0
        for part in answer.iter_stream():
            size += len(part)
            self._check_size(size, url)
            parts.append(part)
        return b"".join(parts)

    def _read_local(self, url: str, root: Path) -> bytes:
        """Read a file that Label Studio would serve as `/data/local-files/?d=folder/file.png`.

        See https://labelstud.io/guide/storage.html#Local-storage.
        """
        relative_path = parse_qs(urlsplit(url).query).get("d", [""])[0]
        path = (root / unquote(relative_path)).resolve()
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            raise UnreadableError(f"no file {relative_path!r} under LOCAL_FILES_DOCUMENT_ROOT", is_permanent=False)
        self._check_size(path.stat().st_size, url)
        return path.read_bytes()

    def _checked_size(self, data: bytes, url: str) -> bytes:
        self._check_size(len(data), url)
        return data

    def _check_size(self, size: int, url: str) -> None:
        if size > self._settings.media_max_mb * MEGABYTE:
            raise UnreadableError(
                f"{_shown(url)} is larger than {self._settings.media_max_mb} MB (MEDIA_MAX_MB)", is_permanent=True
            )

    def _timeouts(self) -> dict[str, dict[str, float]]:
        limit = self._settings.media_timeout_s
        return {"timeout": {"connect": min(limit, 5.0), "read": limit, "write": limit, "pool": limit}}


def digest(data: bytes) -> str:
    """The BLAKE2b digest of a file, 32 hex digits: names its content, wherever it came from."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class _ForbiddenAddressError(Exception):
    """A stranger's URL leads to an address that is not public."""


class _Limit(threading.local):
    """When the download of this thread must have ended, in seconds of the monotonic clock."""

    ends_at: float = math.inf

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
        address = host if is_allowed else _public_address(host, port)
        stream = self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
        return _TimedStream(stream, self._limit)


def _public_address(host: str, port: int) -> str:
    """Resolve a host; all its addresses must be public."""
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise httpcore.ConnectError(f"host {host!r} cannot be resolved: {error}") from error
    addresses = [str(entry[4][0]) for entry in entries]
    for address in addresses:
        ip = ipaddress.ip_address(address.split("%")[0])
        reached = (ip, *_embedded(ip))
        if not all(address.is_global and not address.is_multicast for address in reached):
            raise _ForbiddenAddressError(
                f"media host {host!r} is at {address}, which is not public; "
                f"add {host}:{port} to MEDIA_ALLOWED_HOSTS if it is yours"
            )
    return addresses[0]


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for in a translating network (mapped, 6to4, NAT64)."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
    return [ipv4 for ipv4 in (ip.ipv4_mapped, ip.sixtofour, nat64) if ipv4 is not None]


def _pool(backend: httpcore.NetworkBackend) -> httpcore.ConnectionPool:
    # The pool does not limit connections: the callers limit how many downloads run at the same time for each host.
    return httpcore.ConnectionPool(max_connections=None, max_keepalive_connections=32, network_backend=backend)


def _decode_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        raise UnreadableError(f"data URL {_shown(url)} is not base64", is_permanent=True)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise UnreadableError(f"data URL {_shown(url)} is broken: {error}", is_permanent=True) from error


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


def _host_header(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _shown(url: str) -> str:
    """The URL for a message: without the query, which may hold a signature, and without a password."""
    scheme, separator, rest = url.split("?")[0].rpartition("://")
    host, slash, path = rest.partition("/")
    return repr(f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"[:120])
