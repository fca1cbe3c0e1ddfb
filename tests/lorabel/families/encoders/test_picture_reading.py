"""Where pictures are read, and whose memory they take meanwhile."""

import io
import pickle

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Pad, Resize

from lorabel.families.encoders.picture_reading import PictureReader, reading_by
from lorabel.media.decode_memory import MEGABYTE, DecodeMemory
from lorabel.media.plain_jpeg import PIXEL_BYTES

READER = PictureReader([Resize(20), CenterCrop(20)], most_megapixels=1, enough_px=100)


def jpeg(colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "JPEG")
    return file.getvalue()


def test_memory_is_reserved_here_while_another_process_reads() -> None:
    memory = DecodeMemory(256 * MEGABYTE)
    reserved, pixels = [], torch.zeros(3, 20, 20, dtype=torch.uint8)

    def read(reader: PictureReader, file: bytes) -> Tensor:
        reserved.append(memory.reserved_bytes)
        return pixels

    with reading_by(read):
        assert READER.read(jpeg(), memory) is pixels
    assert reserved == [60 * 40 * PIXEL_BYTES]
    assert memory.reserved_bytes == 0
    assert READER.read(jpeg(), memory).float().mean((1, 2)).round().tolist() == [254, 0, 0]
    assert len(reserved) == 1


def test_a_reader_is_portable_if_torchvision_alone_resizes() -> None:
    assert READER.is_portable
    assert not PictureReader([Resize(20), Pad(1)], 1, 100).is_portable


def test_a_reader_for_another_process_reads_the_same() -> None:
    memory = DecodeMemory(256 * MEGABYTE)
    other: PictureReader = pickle.loads(READER.pickled)
    assert torch.equal(other.read_here(jpeg("blue"), memory), READER.read_here(jpeg("blue"), memory))
    assert other.pickled == READER.pickled
