"""Decoders as real processes: they give what this process reads and fetches, and a killed one loses nothing."""

import errno
import io
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from prometheus_client import CollectorRegistry
from torchvision.transforms import Pad, Resize

from lorabel.contracts import MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.errors import UnreadableError
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.picture_reading import PictureReader, reading_by
from lorabel.media.deadline import deadline
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import Fetcher
from lorabel.settings import Settings
from model_server.decoders import Decoders, decoder_count
from model_server.metrics import Metrics
from tests.serving import serving

pytestmark = pytest.mark.slow

COUNT = 2
MOST_MEGAPIXELS = 3
NOISE = Image.fromarray(np.random.default_rng(5).integers(0, 256, (48, 64, 3), np.uint8))
PHOTO = NOISE.resize((640, 480))


def saved(picture: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def on_its_side() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(PHOTO, "JPEG", exif=exif)


JPEG = saved(PHOTO, "JPEG", quality=90)
FILES = {
    "plain JPEG": JPEG,
    "progressive JPEG": saved(PHOTO, "JPEG", progressive=True),
    "JPEG on its side": on_its_side(),
    "CMYK": saved(PHOTO.convert("CMYK"), "JPEG"),
    "PNG with a palette": saved(PHOTO.quantize(64), "PNG"),
    "WebP": saved(PHOTO, "WEBP"),
    "more than 2 megapixels": saved(NOISE.resize((1800, 1300)), "JPEG"),
    "very long": saved(NOISE.resize((7, 900)), "PNG"),
    "smaller than the input": saved(NOISE, "PNG"),
}
BAD_FILES = {
    "empty": b"",
    "no picture": b"<html>",
    "cut off JPEG": JPEG[: len(JPEG) // 2],
    "cut off PNG": saved(PHOTO, "PNG")[:5000],
    "broken JPEG": JPEG[:30] + bytes(700) + JPEG[730:],
    "too many megapixels": saved(Image.new("L", (2000, 1600)), "PNG"),
}


class _Site(ThreadingHTTPServer):
    """Serves JPEG at every path, after `on_request` was called."""

    daemon_threads = True

    def __init__(self) -> None:
        self.on_request: Callable[[], None] = lambda: None
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    server: _Site

    def do_GET(self) -> None:
        self.server.on_request()
        self.send_response(200)
        self.send_header("Content-Length", str(len(JPEG)))
        self.end_headers()
        self.wfile.write(JPEG)

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


@pytest.fixture(scope="module")
def site() -> Iterator[_Site]:
    site = _Site()
    with serving(site):
        yield site


@pytest.fixture(scope="module")
def settings(site: _Site, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("files")
    (root / "a.jpg").write_bytes(JPEG)
    return Settings(
        media_allowed_hosts=site.host,
        local_files_document_root=root,
        media_max_megapixels=MOST_MEGAPIXELS,
        media_max_mb=1,
    )


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def decoders(settings: Settings, registry: CollectorRegistry) -> Iterator[Decoders]:
    decoders = Decoders(COUNT, settings, Metrics(registry))
    decoders.start()
    yield decoders
    decoders.close()


@pytest.fixture(scope="module")
def family(settings: Settings) -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, settings)


def requests(registry: CollectorRegistry, kind: str) -> float:
    return sum(
        registry.get_sample_value("lorabel_decoder_requests_total", {"decoder": str(number), "kind": kind}) or 0
        for number in range(COUNT)
    )


def reason(read: object) -> tuple[str, bool]:
    """The message of the error that a function raises, and whether it is permanent."""
    assert callable(read)
    with pytest.raises(UnreadableError) as caught:
        read()
    return str(caught.value), caught.value.is_permanent


@pytest.mark.parametrize("name", FILES)
def test_a_decoder_gives_the_pixels_that_this_process_reads(
    name: str, family: DualEncoder, decoders: Decoders, registry: CollectorRegistry
) -> None:
    file, before = FILES[name], requests(registry, "read")
    pixels = family.read(Modality.IMAGE, file)
    with reading_by(decoders.read):
        read_elsewhere = family.read(Modality.IMAGE, file)
    assert requests(registry, "read") == before + 1
    assert torch.equal(read_elsewhere, pixels)
    assert (read_elsewhere.dtype, read_elsewhere.stride()) == (pixels.dtype, pixels.stride())
    features = [family.encode(Modality.IMAGE, [data]) for data in (pixels, read_elsewhere)]
    assert torch.equal(*features)


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_picture_has_the_same_reason(name: str, family: DualEncoder, decoders: Decoders) -> None:
    here = reason(lambda: family.read(Modality.IMAGE, BAD_FILES[name]))
    with reading_by(decoders.read):
        assert reason(lambda: family.read(Modality.IMAGE, BAD_FILES[name])) == here
    assert here[1]


def test_a_decoder_stops_at_the_deadline(family: DualEncoder, decoders: Decoders) -> None:
    with deadline(time.monotonic() - 1):
        here = reason(lambda: family.read(Modality.IMAGE, JPEG))
        with reading_by(decoders.read):
            assert reason(lambda: family.read(Modality.IMAGE, JPEG)) == here
    assert here == ("the time was over before all of it was read", False)


def test_an_error_that_nobody_expects_is_a_reason_and_not_the_end_of_the_decoder(decoders: Decoders) -> None:
    before = decoders.pids
    wrong = PictureReader([Resize(0)], MOST_MEGAPIXELS, 1000)
    found = reason(lambda: decoders.read(wrong, JPEG))
    assert found == ("RuntimeError in a decoder of the model server, whose log has more", False)
    assert decoders.pids == before


def test_a_transform_with_other_steps_is_read_in_this_process(decoders: Decoders) -> None:
    reader = PictureReader([Pad(3)], MOST_MEGAPIXELS, 1000)
    with reading_by(lambda *_: pytest.fail("another process would need the step's module")):
        assert reader.read(JPEG, decode_memory(1792)).shape == (3, PHOTO.height + 6, PHOTO.width + 6)


def test_files_are_those_that_this_process_fetches(decoders: Decoders, settings: Settings, site: _Site) -> None:
    addresses = [f"http://{site.host}/a.jpg", "data:text/plain,hello", "/data/local-files/?d=a.jpg"]
    medias = [MediaRef(url=address, is_label_studio=True) for address in addresses]
    files = [decoders.fetch(media) for media in medias]
    assert files == [JPEG, b"hello", JPEG] == [Fetcher(settings).fetch(media) for media in medias]


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:1/a.jpg", "http://[::1]:1/a.jpg", "http://10.0.0.1/a.jpg", "ftp://a/b.jpg"]
    + ["http://localhost:1/", "/data/local-files/?d=../b.jpg", "data:text/plain," + "a" * 1_100_000],
)
def test_every_decoder_refuses_what_this_process_refuses(
    address: str, decoders: Decoders, settings: Settings
) -> None:
    media = MediaRef(url=address)
    here = reason(lambda: Fetcher(settings).fetch(media))
    # Each request is for the decoder that has the fewest, so two at once are for both.
    with ThreadPoolExecutor(COUNT) as threads:
        found = list(threads.map(lambda _: reason(lambda: decoders.fetch(media)), range(2 * COUNT)))
    assert found == [here] * (2 * COUNT)


def test_a_file_whose_decoder_is_killed_comes_from_another(
    decoders: Decoders, registry: CollectorRegistry, site: _Site
) -> None:
    """Each decoder has half of the requests. All are there when it is killed, and none is answered before."""
    everybody, restarts = threading.Barrier(9, timeout=30), "lorabel_decoder_restarts_total"
    before, restarts_before = decoders.pids, registry.get_sample_value(restarts) or 0
    victim = before[0]
    is_killed = threading.Event()

    def wait() -> None:
        if not is_killed.is_set():
            everybody.wait()
            assert is_killed.wait(30)

    site.on_request = wait
    with ThreadPoolExecutor(8) as threads:
        media = [MediaRef(url=f"http://{site.host}/{number}.jpg") for number in range(8)]
        files = [threads.submit(decoders.fetch, ref) for ref in media]
        everybody.wait()
        os.kill(victim, signal.SIGKILL)
        is_killed.set()
        assert [file.result(30) for file in files] == [JPEG] * 8
    site.on_request = lambda: None
    after = decoders.pids
    assert after[0] != victim and after[1:] == before[1:]
    assert registry.get_sample_value(restarts) == restarts_before + 1


def test_a_file_that_ends_every_decoder_fails_and_others_do_not(decoders: Decoders, site: _Site) -> None:
    def kill() -> None:
        for pid in decoders.pids:
            os.kill(pid, signal.SIGKILL)

    site.on_request = kill
    media = MediaRef(url=f"http://{site.host}/deadly.jpg")
    assert reason(lambda: decoders.fetch(media)) == ("2 decoders ended while they had the file", False)
    site.on_request = lambda: None
    files = [decoders.fetch(media) for _ in range(3)]
    assert files == [JPEG] * 3


def test_decoders_that_are_killed_before_they_read_the_request_do_not_count(settings: Settings) -> None:
    """If all are killed at once, a request may be sent to one that has not quite ended yet."""
    decoders = Decoders(COUNT, settings, Metrics(CollectorRegistry()))
    decoders.start()
    ended = decoders.pids
    for pid in ended:
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        file = threads.submit(decoders.fetch, MediaRef(url="data:,a"))
        for pid in ended:
            time.sleep(0.5)  # the request is in the socket of the one, and then of the other
            os.kill(pid, signal.SIGKILL)
        assert file.result(30) == b"a"
    decoders.close()


def test_decoders_end_when_they_are_closed(settings: Settings) -> None:
    decoders = Decoders(1, settings, Metrics(CollectorRegistry()))
    decoders.start()
    (pid,) = decoders.pids
    assert decoders.fetch(MediaRef(url="data:,a")) == b"a"
    decoders.close()
    assert not Path(f"/proc/{pid}").exists()
    assert reason(lambda: decoders.fetch(MediaRef(url="data:,a")))[1] is False


@pytest.mark.parametrize(
    ("cores", "count"),
    [(1, 0), (2, 0), (3, 2), (4, 3), (16, 4)],
)
def test_by_default_there_are_decoders_where_there_are_cores_for_them(
    cores: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert decoder_count(Settings()) == count
    assert decoder_count(Settings(decoders=3)) == 3


def test_too_many_open_files_here_end_no_decoder(
    decoders: Decoders, site: _Site, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, a decoder that could not be reached for lack of a descriptor was ended, with the work of others."""
    before, restarts = decoders.pids, registry.get_sample_value("lorabel_decoder_restarts_total")
    for decoder in decoders._decoders:
        assert decoder._running is not None
        while decoder._running.free:
            decoder._running.free.pop().close()

    def fail() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socketpair", fail)
        message, is_permanent = reason(lambda: decoders.fetch(MediaRef(url=f"http://{site.host}/a.jpg")))
    assert "Too many open files" in message and not is_permanent
    assert (decoders.pids, registry.get_sample_value("lorabel_decoder_restarts_total")) == (before, restarts)
    assert decoders.fetch(MediaRef(url=f"http://{site.host}/a.jpg")) == JPEG
