"""rapidocr's models: find the lines of text in a picture, turn them upright, and read them.

PP-OCRv6 (https://github.com/PaddlePaddle/PaddleOCR) in ONNX, computed by onnxruntime. The models are files of
rapidocr, so nothing is downloaded. They are no torch modules, so there are no adapters: a project learns by its
fitted head, see `lorabel.families.text_lines`.

A picture is read in `prepare`, one at a time, since it takes one or two seconds of a CPU and nothing of the
device: other families answer meanwhile.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import nn

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import DigestOf, Family, Fetch
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.text_lines.features import FEATURE_COUNT
from lorabel.families.text_lines.learned_lines import learned_lines
from lorabel.feature_contracts import Features, LineFeaturesInput
from lorabel.media.deadline import check_deadline
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import digest
from lorabel.media.image import decoded_image, shown_size
from lorabel.settings import Settings
from lorabel.space_contracts import Corners, TextLine, TextLines, TextLinesInput

PACKAGE = "rapidocr"
# rapidocr's name of a model -> its file in a folder.
FILES = {"Det": "*_det_*.onnx", "Cls": "*_cls_*.onnx", "Rec": "*_rec_*.onnx"}
# Longer sides of a picture are shrunk to this before lines are looked for.
LONGEST_SIDE_PX = 2000
# rapidocr enlarges a picture until its shorter side has so many pixels. A strip of 20 x 2000 would have 54
# megapixels, and take tens of gigabytes.
ENLARGED_TO_PX = 736
MOST_ASPECT = 4
# Least margin around a part of a picture that is read alone.
MARGIN_PX = 16
# Memory of a line in the cache, about.
LINE_BYTES = 300


@dataclass(frozen=True)
class ReadPicture:
    """The lines of a picture as the base model reads them.

    Args:
        width: of the picture as people see it, in pixels.
        height: in pixels.
    """

    lines: tuple[TextLine, ...]
    width: int
    height: int

    @property
    def nbytes(self) -> int:
        """Bytes in memory, about."""
        return LINE_BYTES * (1 + len(self.lines))


@dataclass(frozen=True)
class PreparedInput:
    """A question about a picture that was read.

    Args:
        digest: of the picture's file.
        fitted_head: corrects readings, and says which label a line has.
    """

    question: TextLinesInput | LineFeaturesInput
    digest: str
    read: ReadPicture
    fitted_head: LinearHead | None = None


@dataclass(frozen=True)
class TextReader(Family):
    """Lines of text in pictures, by rapidocr.

    Attributes:
        module: has no layers.
        engine: a `rapidocr.RapidOCR`, which keeps state, so only one thread at a time may use it.
        lock: held while the engine is used.
    """

    name: ClassVar[str] = "text_reader"
    inputs: ClassVar[tuple[type[Input], ...]] = (TextLinesInput, LineFeaturesInput)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.IMAGE})
    default_source: ClassVar[str] = PACKAGE
    has_lora: ClassVar[bool] = False

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    engine: Any
    lock: threading.Lock
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load the models of the package `rapidocr`, or those in `local-dir:folder`; see `Family.load`."""
        try:
            # Imported here because it takes seconds.
            from rapidocr import RapidOCR

            folder = _folder(source)
            paths = {f"{model}.model_path": str(_file(folder, pattern)) for model, pattern in FILES.items()}
            engine = RapidOCR(
                params={
                    **paths,
                    "Global.log_level": "error",
                    "Global.max_side_len": LONGEST_SIDE_PX,
                    "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),
                }
            )
            # rapidocr opens a model's file when it needs the model. The argument stays in force.
            for use_det in (False, True):
                engine(np.full((48, 96, 3), 255, np.uint8), use_det=use_det)
        except Exception as error:
            raise SettingsError(
                f"MODEL_TEXT_READER={source!r} cannot be loaded: {error}; expected {PACKAGE!r}, or "
                f"local-dir:folder with one file each of {', '.join(FILES.values())}"
            ) from error
        return cls(source, nn.Module(), device, dtype, engine, threading.Lock(), settings)

    @classmethod
    def is_local(cls, source: str) -> bool:
        """Return True: the models are files of a package, or in a folder."""
        return True

    @classmethod
    def hub_id(cls, source: str) -> str:
        """Raise: nothing is loaded from a model hub."""
        raise SettingsError(f"{cls.name} needs no model hub: its models are files of the package {PACKAGE}")

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Return the package's models, which are small enough for tests; see `Family.tiny`."""
        return PACKAGE

    def prepare(self, question: TextLinesInput | LineFeaturesInput, fetch: Fetch) -> PreparedInput:
        """Decode the picture and read it; see `Family.prepare`."""
        media = question.contents[0].media
        if media is None:
            raise UnreadableError("the picture has no address", is_permanent=True)
        file = fetch(media)
        memory = decode_memory(self.settings.media_decode_mb)
        part = question.part if isinstance(question, TextLinesInput) else None
        with decoded_image(file, self.settings.media_max_megapixels, LONGEST_SIDE_PX, memory) as image:
            pixels = _pixels(image)
        if part is not None:
            pixels = _cut(pixels, part.corners)
        read = ReadPicture(self._read(pixels), *shown_size(file))
        return PreparedInput(question, digest(file), read)

    def recall(
        self,
        question: TextLinesInput | LineFeaturesInput,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedInput | None:
        """Take the lines from the cache; see `Family.recall`. A part of a picture is always read anew."""
        if isinstance(question, TextLinesInput) and question.part is not None:
            return None
        media = question.contents[0].media
        file_digest = None if media is None else digest_of(media)
        read = None if file_digest is None else cache.get(FEATURES, file_digest)
        if file_digest is None or read is None:
            return None
        return PreparedInput(question, file_digest, read)

    @property
    def head_dim(self) -> int:
        """Return the number of features; see `Family.head_dim`."""
        return FEATURE_COUNT

    def answer(
        self, prepared_input: PreparedInput, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> Contract:
        """Answer; see `Family.answer`."""
        return self._output(prepared_input)

    def predict(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> Sequence[Contract]:
        """Answer, and keep what was read; see `Family.predict`."""
        for prepared in prepared_inputs:
            if not (isinstance(prepared.question, TextLinesInput) and prepared.question.part):
                cache.put(FEATURES, prepared.digest, prepared.read)
        return [self._output(prepared) for prepared in prepared_inputs]

    def _read(self, pixels: NDArray[np.uint8]) -> tuple[TextLine, ...]:
        """Read a picture.

        Args:
            pixels: (height, width, 3) uint8 in the order blue, green, red.
        """
        with self.lock:
            check_deadline()  # the picture may have waited for others
            lines = self.engine(_padded(pixels))
        height, width = pixels.shape[:2]
        boxes, texts, scores = (() if part is None else part for part in (lines.boxes, lines.txts, lines.scores))
        return tuple(
            TextLine(corners=corners, text=text.strip(), probability=float(min(max(score, 0.0), 1.0)))
            for box, text, score in zip(boxes, texts, scores, strict=True)
            if text.strip() and (corners := _corners(box, width, height)) is not None
        )

    def _output(self, prepared: PreparedInput) -> Contract:
        read = prepared.read
        if isinstance(prepared.question, LineFeaturesInput):
            return Features(space=self.space, dim=0, float16="", lines=read.lines)
        lines = read.lines
        if prepared.question.part is not None:
            lines = _text_of_part(lines, prepared.question, prepared.fitted_head)
        elif prepared.fitted_head is not None:
            lines = learned_lines(prepared.fitted_head, lines)
        return TextLines(lines=lines, width=read.width, height=read.height)


def _folder(source: str) -> Path:
    if source.startswith("local-dir:"):
        return Path(source.removeprefix("local-dir:"))
    spec = find_spec(source)
    if source != PACKAGE or spec is None or spec.origin is None:
        raise ValueError("there is no such package")
    return Path(spec.origin).parent / "models"


def _file(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise ValueError(f"{str(folder)!r} has {len(files)} files {pattern}")
    return files[0]


def _pixels(image: Image) -> NDArray[np.uint8]:
    """(height, width, 3) uint8 in the order blue, green, red; both sides at most LONGEST_SIDE_PX."""
    scale = min(1.0, LONGEST_SIDE_PX / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    return np.asarray(image, np.uint8)[:, :, ::-1]


def _cut(pixels: NDArray[np.uint8], corners: Corners) -> NDArray[np.uint8]:
    """A part of a picture, at least a pixel wide and high, in the middle of a plain ground of its border's colour.

    The ground is so large that rapidocr enlarges the part no more than it does the whole picture: in letters that
    are too large it takes each word for a line.
    """
    sides = pixels.shape[1], pixels.shape[0]
    left, top = (math.floor(part * side) for part, side in zip(corners[:2], sides, strict=True))
    right, bottom = (math.ceil(part * side) for part, side in zip(corners[2:], sides, strict=True))
    part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
    height, width = (side + 2 * MARGIN_PX for side in part.shape[:2])
    least = min(*sides, ENLARGED_TO_PX)
    ground = np.empty((max(height, least), max(width, least), 3), np.uint8)
    ground[:] = np.median(border, axis=0).round()
    y, x = ((outer - inner) // 2 for outer, inner in zip(ground.shape[:2], part.shape[:2], strict=True))
    ground[y : y + part.shape[0], x : x + part.shape[1]] = part
    return ground


def _text_of_part(
    lines: Sequence[TextLine], question: TextLinesInput, head: LinearHead | None
) -> tuple[TextLine, ...]:
    """The lines of a part as one; none if there are none. Its readings are corrected as others are."""
    part = question.part
    if part is None or not lines:
        return ()
    lexicon = None if head is None else head.lexicon
    texts = [line.text if lexicon is None else lexicon.corrected(line.text, line.probability) for line in lines]
    label: tuple[float, ...] = ()
    if part.label is not None:
        label = tuple(float(index == 1 + part.label) for index in range(1 + len(question.labels)))
    probability = sum(line.probability for line in lines) / len(lines)
    read = TextLine(
        corners=part.corners, text="\n".join(texts), probability=probability, label_probabilities=label, id=part.id
    )
    return (read,)


def _padded(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with white to its right or below, so that no side is more than MOST_ASPECT times the other."""
    height, width = pixels.shape[:2]
    shape = (max(height, math.ceil(width / MOST_ASPECT)), max(width, math.ceil(height / MOST_ASPECT)), 3)
    padded = np.full(shape, 255, np.uint8)
    padded[:height, :width] = pixels
    return padded


def _corners(points: NDArray[np.float64], width: int, height: int) -> tuple[float, float, float, float] | None:
    """The upright box around a quadrangle in pixels, as fractions of the picture; None if it has no area."""
    left, top = np.clip(np.min(points, axis=0) / (width, height), 0, 1).tolist()
    right, bottom = np.clip(np.max(points, axis=0) / (width, height), 0, 1).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None
