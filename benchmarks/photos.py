"""Makes any number of different photographs as JPEG, and serves them over HTTP.

    python -m benchmarks.photos PORT        GET /123.jpg

The photographs are crops of scikit-image's photographs at 640 x 480 px. Each crop gives many photographs: the
number is written into the quantisation table, so that each has other bytes and other pixels and costs only a copy.
So a cache of bytes, addresses or pixels cannot hold a number that was not requested before.
"""

import asyncio
import base64
import io
import itertools
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image
from skimage import data

WIDTH_PX, HEIGHT_PX = 640, 480
QUALITY = 85
POOL = 128
SOURCES = ("astronaut", "chelsea", "coffee", "rocket", "retina", "hubble_deep_field")
TABLE_MARKER = b"\xff\xdb"
TABLE_HEAD = 5  # marker, length, precision with the table's number
# Indices into the table's 64 divisors, in zigzag order: middle frequencies, which every photograph has.
DIVISORS = range(6, 12)
CHOICES = 16


class Photos:
    """`photos[n]` is the JPEG of number n, the same in every process."""

    def __init__(self, pool: int = POOL) -> None:
        self._pool = [_encode(crop) for crop in itertools.islice(_crops(), pool)]

    def __getitem__(self, number: int) -> bytes:
        variant, crop = divmod(number, len(self._pool))
        jpeg = bytearray(self._pool[crop])
        table = jpeg.index(TABLE_MARKER) + TABLE_HEAD
        for divisor in DIVISORS:
            variant, digit = divmod(variant, CHOICES)
            jpeg[table + divisor] += digit
        return bytes(jpeg)


def _crops() -> Iterator[Image.Image]:
    """Endless random crops of the photographs, each a little lighter or darker."""
    generator = np.random.default_rng(3)
    photographs = [Image.fromarray(getattr(data, name)()[..., :3]) for name in SOURCES]
    while True:
        image = photographs[generator.integers(len(photographs))]
        height = min(image.height, image.width * HEIGHT_PX / WIDTH_PX) * generator.uniform(0.6, 1.0)
        width = height * WIDTH_PX / HEIGHT_PX
        left, top = generator.uniform(0, image.width - width), generator.uniform(0, image.height - height)
        crop = image.resize((WIDTH_PX, HEIGHT_PX), box=(left, top, left + width, top + height))
        gain = generator.uniform(0.8, 1.2)
        yield crop.point(lambda value, gain=gain: min(255, round(value * gain)))


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


class _Connection(asyncio.Protocol):
    """The least HTTP that works, so that serving costs the measured machine almost nothing."""

    def __init__(self, photos: Photos) -> None:
        self._photos, self._received = photos, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, received: bytes) -> None:
        self._received += received
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            number = int(head.split(b" ", 2)[1].strip(b"/").removesuffix(b".jpg") or 0)
            jpeg = self._photos[number]
            answer = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
            self._transport.write(answer + jpeg)  # type: ignore[attr-defined]


async def serve(port: int) -> None:
    photos = Photos()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(photos), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
