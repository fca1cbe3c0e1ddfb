"""URL -> bytes -> picture; the only place that fetches.

A task's data is written by strangers, so what they name is fetched only over http(s), from public addresses,
from Label Studio's host and from the hosts that MEDIA_ALLOWED_HOSTS names. The address is checked where the
connection is made, after the name was resolved, so that a name cannot be pointed elsewhere in between.
"""

import base64
import binascii
import io
import ipaddress
import socket
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

import httpcore
from PIL import Image, ImageOps, UnidentifiedImageError

from lorabel.contracts import MediaRef
from lorabel.errors import UnreadableError
from lorabel.settings import Settings

MOST_REDIRECTS = 5
LOCAL_FILES_PATH = "/data/local-files/"
MEGABYTE = 1024 * 1024
REDIRECTS = (301, 302, 303, 307, 308)
GONE = 410


class Fetcher:
    """Thread-safe; connections are kept and reused."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        allowed = [host.strip().lower() for host in settings.media_allowed_hosts.split(",") if host.strip()]
        self._guarded = _pool(_GuardedBackend(frozenset(allowed)))
        self._trusted = _pool(httpcore.SyncBackend())

    def fetch(self, media: MediaRef) -> bytes:
        """The file's bytes.

        Raises:
            UnreadableError: forbidden, unreachable, too slow (for now), or too large (for good).
        """
        scheme = urlsplit(media.url).scheme.lower()
        if scheme == "data":
            return self._checked_size(_decode_data_url(media.url), media.url)
        path = urlsplit(media.url).path
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
        self._guarded.close()
        self._trusted.close()

    def _download(self, media: MediaRef) -> bytes:
        url, deadline = media.url, time.monotonic() + self._settings.media_timeout_s
        for _ in range(MOST_REDIRECTS + 1):
            is_same = origin(url) == origin(media.url)
            pool = self._trusted if media.is_trusted and is_same else self._guarded
            headers: dict[bytes | str, bytes | str] = {"Host": _host_header(url)}
            if media.authorization and is_same:
                headers["Authorization"] = media.authorization
            try:
                with pool.stream("GET", url, headers=headers, extensions=self._timeouts()) as answer:
                    if answer.status in REDIRECTS:
                        location = dict(answer.headers).get(b"Location") or dict(answer.headers).get(b"location")
                        if location is None:
                            raise UnreadableError(f"{_shown(url)} redirects to nowhere", is_permanent=False)
                        url = urljoin(url, location.decode("latin-1"))
                        continue
                    return self._read(answer, url, deadline)
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

    def _read(self, answer: httpcore.Response, url: str, deadline: float) -> bytes:
        if answer.status >= 300:
            raise UnreadableError(
                f"{_shown(url)} answered status {answer.status}", is_permanent=answer.status == GONE
            )
        parts, size = [], 0
        for part in answer.iter_stream():
            size += len(part)
            self._check_size(size, url)
            if time.monotonic() > deadline:
                raise UnreadableError(
                    f"{_shown(url)} took longer than {self._settings.media_timeout_s:g} s (MEDIA_TIMEOUT_S)",
                    is_permanent=False,
                )
            parts.append(part)
        return b"".join(parts)

    def _read_local(self, url: str, root: Path) -> bytes:
        """https://labelstud.io/guide/storage.html#Local-storage: `/data/local-files/?d=folder/file.png`."""
        wanted = parse_qs(urlsplit(url).query).get("d", [""])[0]
        path = (root / unquote(wanted)).resolve()
        if not path.is_relative_to(root.resolve()) or not path.is_file():
            raise UnreadableError(f"no file {wanted!r} under LOCAL_FILES_DOCUMENT_ROOT", is_permanent=False)
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


def decode_image(data: bytes, most_megapixels: int) -> Image.Image:
    """An upright RGB picture. Raises UnreadableError, for good: a broken file stays broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
            megapixels = image.width * image.height / 1e6
            if megapixels > most_megapixels:
                raise UnreadableError(
                    f"picture of {megapixels:.1f} megapixels, more than {most_megapixels} (MEDIA_MAX_MEGAPIXELS)",
                    is_permanent=True,
                )
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableError(
            f"file of {len(data)} bytes is no readable picture: {error}", is_permanent=True
        ) from error


class _ForbiddenAddressError(Exception):
    pass


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects to public addresses and to hosts that the operator allowed, by `host` or `host:port`."""

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        address = host
        if not {host.lower(), f"{host.lower()}:{port}"} & self._allowed:
            address = _public_address(host, port)
        return self._plain.connect_tcp(address, port, timeout, local_address, socket_options)


def _public_address(host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise httpcore.ConnectError(f"host {host!r} cannot be resolved: {error}") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        ip = ipaddress.ip_address(address.split("%")[0])
        mapped = getattr(ip, "ipv4_mapped", None)
        if not (mapped or ip).is_global or ip.is_multicast:
            raise _ForbiddenAddressError(
                f"media host {host!r} is at {address}, which is not public; "
                f"add {host}:{port} to MEDIA_ALLOWED_HOSTS if it is yours"
            )
    return addresses[0]


def _pool(backend: httpcore.NetworkBackend) -> httpcore.ConnectionPool:
    return httpcore.ConnectionPool(max_connections=64, max_keepalive_connections=32, network_backend=backend)


def _decode_data_url(url: str) -> bytes:
    head, _, body = url.partition(",")
    if not head.endswith(";base64"):
        raise UnreadableError(f"data URL {_shown(url)} is not base64", is_permanent=True)
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise UnreadableError(f"data URL {_shown(url)} is broken: {error}", is_permanent=True) from error


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: what a token is bound to."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _host_header(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _shown(url: str) -> str:
    """Without the query, which may hold a signature."""
    return repr(url.split("?")[0][:120])
