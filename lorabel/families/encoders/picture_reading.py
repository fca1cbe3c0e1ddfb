"""Reads a picture file to the pixels that an encoder computes with.

This needs the encoder's transform, but not its model. So another process can do it (`reading_by`).
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lorabel.families.encoders.picture_resizing import is_resized_here, resized
from lorabel.media.decode_memory import DecodeMemory
from lorabel.media.pixels import decoded_pixels, needed_bytes


@dataclass(frozen=True)
class PictureReader:
    """How an encoder reads pictures. It can be pickled where `is_portable`.

    Args:
        steps: of torchvision's transforms, for pictures of Pillow: those that resize and crop.
        most_megapixels: MEDIA_MAX_MEGAPIXELS.
        enough_px: as for `lorabel.media.image.decode_image`.
    """

    steps: Sequence[Any]
    most_megapixels: int
    enough_px: int

    def read(self, file: bytes, memory: DecodeMemory) -> Tensor:
        """Decode a picture in this thread, or by what `reading_by` says.

        Args:
            memory: is reserved while the picture is decoded, also if another process decodes it: so the limit is
                that of all processes together.

        Returns:
            (3, height, width) uint8, a view of an array of (height, width, 3).

        Raises:
            UnreadableError: see `lorabel.media.image.decode_image` and `DecodeMemory.reserve`.
        """
        read_elsewhere = _read_elsewhere.get()
        if read_elsewhere is None or not self.is_portable:
            return self.read_here(file, memory)
        with memory.reserve(needed_bytes(file, self.most_megapixels, self.enough_px)):
            return read_elsewhere(self, file)

    def read_here(self, file: bytes, memory: DecodeMemory) -> Tensor:
        """Decode a picture in this thread; see `read`."""
        with decoded_pixels(file, self.most_megapixels, self.enough_px, memory) as image:
            return resized(image, self.steps)

    @cached_property
    def is_portable(self) -> bool:
        """Whether another process reads the same without the model's own code."""
        return is_resized_here(self.steps)

    @cached_property
    def pickled(self) -> bytes:
        """The reader for another process. Equal readers have equal bytes."""
        return pickle.dumps(PictureReader(self.steps, self.most_megapixels, self.enough_px))


ReadPicture = Callable[[PictureReader, bytes], Tensor]

_read_elsewhere: ContextVar[ReadPicture | None] = ContextVar("read_elsewhere", default=None)


@contextmanager
def reading_by(read: ReadPicture | None) -> Iterator[None]:
    """A context in which pictures are read by another process.

    It is a context variable and not a parameter, so that the families of other packages need not pass it on.

    Args:
        read: has the picture of a file read; None reads in the running thread.
    """
    token = _read_elsewhere.set(read)
    try:
        yield
    finally:
        _read_elsewhere.reset(token)
