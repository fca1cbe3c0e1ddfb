"""The file of a fitted head: safetensors with the tensors of the head, and its other fields in the metadata.

weights           (dim, outputs) float32
bias              (outputs,) float32
zero_shot_weight  (outputs,) float32
is_learned        (outputs,) bool
__metadata__      {"head": '{"expected_error": 0.0, "feature_map": "mean", "kind": "labels", ...}'}
"""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lorabel.errors import UnreadableError
from lorabel.families.encoders.heads.platt import Scale
from lorabel.families.text_lines.lexicon import Lexicon

METADATA = "head"
DTYPES = {"weights": np.float32, "bias": np.float32, "zero_shot_weight": np.float32, "is_learned": np.bool_}
FIELDS = {"expected_error": float, "kind": str, "space": str, "feature_map": str, "slots": list}
# A field that only heads of lines of text have, and the types in it.
LEXICON = "lexicon"
LEXICON_FIELDS = {"words": list, "below": float, "errors_before": int, "errors_after": int, "characters": int}
# A field that only heads have whose findings have calibrated scores: [factor, shift] of each label.
SCALES = "score_scales"
# Bytes of the number that a safetensors file begins with: the length of its header.
LENGTH_BYTES = 8


def write_head_file(tensors: Mapping[str, NDArray[Any]], fields: Mapping[str, Any]) -> bytes:
    """Return the file. All fields are in one entry, since safetensors writes entries in no fixed order."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return bytes(save(arrays, {METADATA: json.dumps(fields, sort_keys=True)}))


def read_head_file(file: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the tensors and the other fields.

    Raises:
        UnreadableError: the file is no file of a head, or contains wrong shapes or numbers that are not finite.
    """
    try:
        tensors = load(file)
        header_end = LENGTH_BYTES + int.from_bytes(file[:LENGTH_BYTES], "little")
        fields = json.loads(json.loads(file[LENGTH_BYTES:header_end])["__metadata__"][METADATA])
        types = {name: type(value) for name, value in fields.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from error
    types.pop(LEXICON, None)
    types.pop(SCALES, None)
    if types != FIELDS or not all(isinstance(slot, str) for slot in fields["slots"]):
        raise _unreadable(f"its fields are {types!r}")
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if dtypes != DTYPES:
        raise _unreadable(f"its tensors are {dtypes!r}, expected {sorted(DTYPES)}")
    _check(tensors, fields["expected_error"])
    return tensors, fields


def read_lexicon(fields: Mapping[str, Any]) -> Lexicon | None:
    """Return the lexicon in the fields of a head; None if it has none.

    Raises:
        UnreadableError: it is no lexicon.
    """
    lexicon = fields.get(LEXICON)
    if lexicon is None:
        return None
    is_lexicon = (
        isinstance(lexicon, dict) and {name: type(value) for name, value in lexicon.items()} == LEXICON_FIELDS
    )
    if not is_lexicon or not all(isinstance(word, str) for word in lexicon["words"]):
        raise _unreadable("its lexicon has other fields")
    return Lexicon(**{**lexicon, "words": tuple(lexicon["words"])})


def read_scales(fields: Mapping[str, Any], outputs: int) -> tuple[Scale, ...]:
    """Return the scales of the scores of each label; none if the head has none.

    Raises:
        UnreadableError: they are no scales of so many labels.
    """
    scales = fields.get(SCALES, [])
    if not isinstance(scales, list) or len(scales) not in (0, outputs) or not all(map(_is_scale, scales)):
        raise _unreadable("its scores have no factor and shift for each label")
    return tuple(Scale(*scale) for scale in scales)


def _is_scale(scale: Any) -> bool:
    return isinstance(scale, list) and len(scale) == 2 and all(isinstance(x, float) and isfinite(x) for x in scale)


def _check(tensors: Mapping[str, NDArray[Any]], expected_error: float) -> None:
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    outputs = shapes["weights"][-1:]
    if len(shapes["weights"]) != 2 or any(shapes[name] != outputs for name in DTYPES if name != "weights"):
        raise _unreadable(f"its shapes are {shapes!r}, expected (dim, outputs) and three times (outputs,)")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()) or not np.isfinite(expected_error):
        raise _unreadable("it has numbers that are not finite")


def _unreadable(reason: str) -> UnreadableError:
    return UnreadableError(
        f"this is no file of a head: {reason}; fit the head again from the annotations", is_permanent=False
    )
