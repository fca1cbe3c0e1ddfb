"""The memory of a real model server, seen from outside, while it gets large pictures and videos, 16 at once.

`make bench BENCH="--only media_memory"` measures the same with the largest files that the default settings allow.
"""

from collections.abc import Iterator

import pytest

from benchmarks import large_media, servers
from benchmarks.resident_memory import ResidentMemory
from benchmarks.served_files import serving
from benchmarks.subjects.media_memory import AT_ONCE, Photographer, publish, read_at_once, variables
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings

DECODE_MB = 256
# Memory beside MEDIA_DECODE_MB. Without a limit the files of a kind together would take 16 times 200 MB.
BESIDE_MB = 128
# Megapixels for which about 200 MB are reserved.
KINDS = {
    "PNG": 50,
    "progressive JPEG": 33,
    "lossy WebP with alpha": 12,
    "TIFF of 16 bits": 20,
    "H.264 video": 4.2,
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {}


@pytest.fixture(scope="module")
def address(files: dict[str, bytes]) -> Iterator[str]:
    with serving(files) as address:
        yield address


@pytest.fixture(scope="module")
def server(address: str) -> Iterator[servers.ModelServer]:
    with servers.model_server({**variables(address), "MEDIA_DECODE_MB": str(DECODE_MB)}, AT_ONCE) as server:
        yield server


@pytest.fixture
def client(server: servers.ModelServer) -> Iterator[ModelClient]:
    client = ModelClient(Settings(model_server_url=server.url))
    yield client
    client.close()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_large_files_at_once_stay_within_the_memory_for_decoding_and_do_not_stop_small_ones(
    kind: str, files: dict[str, bytes], address: str, server: servers.ModelServer, client: ModelClient
) -> None:
    memory, photos = ResidentMemory(server.pid), Photographer(client)
    assert photos.ask().error is None
    before_mb = memory.now_mb
    file = large_media.make(kind, KINDS[kind])
    reading = read_at_once(client, memory, photos, kind, publish(files, file, address))
    assert reading.reasons == ()
    assert reading.photo_ms and reading.photo_errors == 0
    assert reading.peak_mb - before_mb < DECODE_MB + BESIDE_MB
