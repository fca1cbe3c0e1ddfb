"""Reads the files that Weights & Biases writes offline."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The file begins with ":W&B", a number and a version; then come blocks with records, as LevelDB's log has them:
# https://github.com/google/leveldb/blob/main/doc/log_format.md
HEADER, BLOCK, RECORD_HEADER = 7, 32768, 7
FULL, LAST = 1, 4


def records(path: Path) -> Iterator[Any]:
    """The records of a run."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content.startswith(b":W&B")
    position, data = HEADER, b""
    while position < len(content):
        if BLOCK - position % BLOCK < RECORD_HEADER:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += RECORD_HEADER
        data += content[position : position + length]
        position += length
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            yield record
            data = b""
