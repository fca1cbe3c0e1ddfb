"""Memory for the largest pictures and videos, 16 at once.

The model server, with as many threads as on a machine with 16 cores, gets 16 different files of a kind from one
project: the largest that MEDIA_MAX_MEGAPIXELS and MEDIA_DECODE_MB allow. Meanwhile another project asks about
photographs, one after the other. The figures are by how much the process's resident memory grew over what it was
before all files, the seconds until all 16 were answered, and the times of the photographs.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from benchmarks import large_media, servers
from benchmarks.photos import Photos, data_url
from benchmarks.plan import Plan
from benchmarks.resident_memory import ResidentMemory
from benchmarks.rows import Goal, Row, percentile
from benchmarks.served_files import serving
from lorabel.contracts import Content, LabelsInput, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.inference.messages import PredictRow, RowResult
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from tests import questions

AT_ONCE = 16
LARGE_PROJECT, SMALL_PROJECT = 1, 2
QUICK_KINDS = ("PNG", "lossy WebP", "H.264 video")
# Memory beside MEDIA_DECODE_MB: the files themselves, decoded inputs at the model's size, and what malloc keeps.
BESIDE_MB = 256
TIMEOUT_S = 300.0
PAUSE_S = 0.02
MEGABYTE = 2**20


@dataclass(frozen=True)
class Reading:
    """What happened while 16 files of a kind were read.

    Args:
        peak_mb: the most resident memory of the process.
        reasons: why some of the files were not read.
        photo_ms: the milliseconds of each answer about a photograph.
        photo_errors: how many of these answers were errors.
    """

    peak_mb: float
    seconds: float
    reasons: tuple[str, ...]
    photo_ms: tuple[float, ...]
    photo_errors: int


def measure(plan: Plan) -> list[Row]:
    kinds = QUICK_KINDS if plan.is_quick else (*large_media.PICTURES, *large_media.VIDEOS)
    files: dict[str, bytes] = {}
    rows = []
    with serving(files) as address, servers.model_server(variables(address), AT_ONCE) as server:
        client = ModelClient(Settings(model_server_url=server.url))
        memory = ResidentMemory(server.pid)
        photos = Photographer(client)
        for _ in range(AT_ONCE):
            photos.ask()
        before_mb = memory.now_mb
        for kind in kinds:
            # In a process of its own, since encoders take gigabytes and keep them.
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                file = process.submit(large_media.make, kind).result()
            reading = read_at_once(client, memory, photos, kind, publish(files, file, address))
            rows += _rows(kind, len(file), reading, reading.peak_mb - before_mb)
    return rows


def variables(address: str) -> dict[str, str]:
    """Environment variables of a model server with the demo model, which may fetch files from the address."""
    return {
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "DEVICE": "cpu",
        "DECODERS": "0",  # all that is decoded is in the process whose memory is measured
        "MEDIA_ALLOWED_HOSTS": address.removeprefix("http://"),
    }


def publish(files: dict[str, bytes], file: bytes, address: str) -> list[str]:
    """Replace the served files by 16 different files like this one. Returns their addresses."""
    first = max((int(name) + 1 for name in files), default=0)
    files.clear()
    files.update({str(number): large_media.numbered(file, number) for number in range(first, first + AT_ONCE)})
    return [f"{address}/{name}" for name in files]


class Photographer:
    """Asks about photographs, each another one."""

    def __init__(self, client: ModelClient) -> None:
        self._client, self._photos, self._number = client, Photos(), 0

    def ask(self) -> RowResult:
        url = data_url(self._photos[self._number])
        self._number += 1
        return self._client.predict([question(Modality.IMAGE, url)], TIMEOUT_S, SMALL_PROJECT)[0]

    def ask_until(self, is_over: Callable[[], bool]) -> tuple[list[float], int]:
        """The milliseconds of each answer, and how many answers were errors."""
        times_ms, errors = [], 0
        while not is_over():
            started = time.monotonic()
            errors += self.ask().error is not None
            times_ms.append((time.monotonic() - started) * 1000)
            time.sleep(PAUSE_S)
        return times_ms, errors


def question(modality: Modality, url: str) -> PredictRow:
    """Which of two labels fits the file?"""
    content = Content(modality=modality, media=MediaRef(url=url))
    return questions.row(LabelsInput(contents=(content,), labels=(("white",), ("black",))))


def read_at_once(
    client: ModelClient, memory: ResidentMemory, photos: Photographer, kind: str, urls: Sequence[str]
) -> Reading:
    """Ask about the files in a request each, at once, and about photographs meanwhile."""
    memory.forget_peak()
    modality = large_media.modality(kind)
    with ThreadPoolExecutor(len(urls)) as threads:
        started = time.monotonic()
        futures: list[Future[list[RowResult]]] = [
            threads.submit(client.predict, [question(modality, url)], TIMEOUT_S, LARGE_PROJECT) for url in urls
        ]
        photo_ms, photo_errors = photos.ask_until(lambda: all(future.done() for future in futures))
        seconds = time.monotonic() - started
        errors = [future.result()[0].error for future in futures]
    reasons = tuple(error.reason for error in errors if error is not None)
    return Reading(memory.peak_mb, seconds, reasons, tuple(photo_ms), photo_errors)


def _rows(kind: str, size_bytes: int, reading: Reading, growth_mb: float) -> list[Row]:
    budget = Goal("<=", Settings().media_decode_mb + BESIDE_MB)
    note = f"files of {size_bytes / MEGABYTE:.1f} MB"
    if reading.reasons:
        note += f"; {len(reading.reasons)} of {AT_ONCE} not read: {reading.reasons[0]}"
    photo_note = f"{len(reading.photo_ms)} photographs, {reading.photo_errors} errors"
    return [
        Row(f"{kind}: growth of memory", growth_mb, "MB", goal=budget, note=note),
        Row(f"{kind}: all {AT_ONCE} answered", reading.seconds, "s"),
        Row(
            f"{kind}: photograph of another project, p95",
            percentile(reading.photo_ms, 0.95),
            "ms",
            note=photo_note,
        ),
    ]
