"""Reads `model.bin`, the file of weights of CTranslate2 (https://opennmt.net/CTranslate2/), without that package.

    uint32 version    text name of the model's class    uint32 its revision
    uint32 count      of variables: text name, uint8 rank, uint32 of each dimension, uint8 type, uint32 bytes, data
    uint32 count      of aliases: text name, text name of the variable

All numbers are little-endian. A text has its length as uint16 before it, and a zero byte at its end, which counts.
This is version 6, of CTranslate2 2 to 4.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lorabel.errors import SettingsError

VERSION = 6
BFLOAT16 = 5
# By the number of the type. NumPy has no bfloat16.
TYPES: tuple[str, ...] = ("<f4", "<i1", "<i2", "<i4", "<f2", "<u2")
SCALE = "_scale"
# int16 weights have one scale for all of a matrix, int8 weights one for each row.
MOST_VARIABLES = 100_000


@dataclass(frozen=True)
class CTranslate2File:
    """The contents of a file.

    Args:
        spec: the name of the model's class, such as `WhisperSpec`.
        variables: by name; those that are stored as whole numbers are still so.
    """

    spec: str
    variables: Mapping[str, Tensor]

    def weight(self, name: str) -> Tensor:
        """Return a variable in float32, whatever its type in the file.

        Raises:
            KeyError: the file has no such variable.
        """
        stored = self.variables[name]
        if stored.is_floating_point():
            return stored.float()
        scale = self.variables[name + SCALE].float()
        return stored.float() / (scale[:, None] if scale.ndim == 1 else scale)

    def number(self, name: str) -> int:
        """Return a variable that is a whole number.

        Raises:
            KeyError: the file has no such variable.
        """
        return int(self.variables[name].item())


def read_file(path: Path) -> CTranslate2File:
    """Read a file.

    Raises:
        SettingsError: it is no such file, or of another version, or it ends too early.
    """
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except (OSError, struct.error, ValueError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{str(path)!r} cannot be read as a model of CTranslate2: {error}; expected the model.bin that "
            f"CTranslate2's converters write (version {VERSION})"
        ) from error


def _read(file: BinaryIO, size: int) -> CTranslate2File:
    (version,) = _numbers(file, "I")
    if version != VERSION:
        raise ValueError(f"it is of version {version}")
    spec = _text(file)
    _, count = _numbers(file, "II")
    if count > MOST_VARIABLES:
        raise ValueError(f"it names {count} variables")
    variables = dict(_variable(file, size) for _ in range(count))
    (count,) = _numbers(file, "I")
    for _ in range(count):
        alias, name = _text(file), _text(file)
        if name not in variables:
            raise ValueError(f"the alias {alias!r} names {name!r}, which is missing")
        variables[alias] = variables[name]
    return CTranslate2File(spec, variables)


def _variable(file: BinaryIO, size: int) -> tuple[str, Tensor]:
    name = _text(file)
    (rank,) = _numbers(file, "B")
    shape = _numbers(file, "I" * rank)
    kind, length = _numbers(file, "BI")
    if kind >= len(TYPES):
        raise ValueError(f"{name!r} is of the unknown type {kind}")
    numbers = np.dtype(TYPES[kind])
    if length > size or length != math.prod(shape) * numbers.itemsize:
        raise ValueError(f"{name!r} of shape {shape} has {length} bytes")
    # A copy of its own, since what is read cannot be written to, which torch warns about.
    array = np.frombuffer(_bytes(file, length), numbers).reshape(shape).copy()
    if kind == BFLOAT16:
        return name, torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return name, torch.from_numpy(array)


def _text(file: BinaryIO) -> str:
    (length,) = _numbers(file, "H")
    return _bytes(file, length).removesuffix(b"\0").decode()


def _numbers(file: BinaryIO, form: str) -> tuple[Any, ...]:
    form = f"<{form}"
    return struct.unpack(form, _bytes(file, struct.calcsize(form)))


def _bytes(file: BinaryIO, count: int) -> bytes:
    read = file.read(count)
    if len(read) < count:
        raise ValueError("it ends too early")
    return read
