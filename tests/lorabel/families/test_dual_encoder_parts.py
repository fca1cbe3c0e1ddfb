"""Questions about parts of a picture, against the same questions about pictures that were cut out by hand."""

import io
from collections.abc import Callable

import pytest
import torch
from PIL import Image, ImageOps

from lorabel.contracts import Content, LabelScores, LabelsInput, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import Picture
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.media.fetching import digest
from lorabel.picture_part import Part
from lorabel.region_contracts import EachLabelScores, EachLabelsInput
from lorabel.settings import Settings

pytestmark = pytest.mark.slow

NAMES = (("red", "circle"), ("blue", "square"), ("green", "star"))
LABELS = tuple((f"a {colour} {shape}",) for colour, shape in NAMES)
BANK = NoBatchAdapters()
SIDE = 64


@pytest.fixture(scope="module")
def family() -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, Settings())


def drawn() -> list[Image.Image]:
    return [
        Picture(colour, shape, "solid", "large", seed).draw().resize((SIDE, SIDE))
        for seed, (colour, shape) in enumerate(NAMES)
    ]


def sheet() -> Image.Image:
    """The three pictures side by side."""
    image = Image.new("RGB", (3 * SIDE, SIDE))
    for index, picture in enumerate(drawn()):
        image.paste(picture, (index * SIDE, 0))
    return image


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def part(index: int, rotation: float = 0.0) -> Part:
    return Part(x=(index + 0.5) / 3, y=0.5, width=1 / 3, height=1.0, rotation=rotation)


def about(parts: list[Part | None]) -> EachLabelsInput:
    media = MediaRef(url="sheet")
    contents = tuple(Content(modality=Modality.IMAGE, media=media, part=each) for each in parts)
    return EachLabelsInput(contents=contents, labels=LABELS)


def answer(family: DualEncoder, question: LabelsInput, file: bytes) -> LabelScores | EachLabelScores:
    prepared = family.prepare(question, lambda _: file)
    (output,) = family.predict([prepared], [None], BANK, FeatureCache({}))
    assert isinstance(output, LabelScores | EachLabelScores)
    return output


def alone(family: DualEncoder, picture: Image.Image) -> LabelScores:
    content = Content(modality=Modality.IMAGE, media=MediaRef(url="alone"))
    output = answer(family, LabelsInput(contents=(content,), labels=LABELS), png(picture))
    assert isinstance(output, LabelScores)
    return output


def test_each_part_is_answered_like_the_picture_that_it_shows(family: DualEncoder) -> None:
    output = answer(family, about([part(2), part(0), part(1)]), png(sheet()))
    assert isinstance(output, EachLabelScores)
    expected = [alone(family, drawn()[index]) for index in (2, 0, 1)]
    for given, wanted, right in zip(output.answers, expected, (2, 0, 1), strict=True):
        assert given.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)
        assert max(range(3), key=given.probabilities.__getitem__) == right


def test_the_picture_is_decoded_once_and_upright_by_its_exif_orientation(
    family: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are said of the picture as people see it."""
    lying, file = sheet().transpose(Image.Transpose.ROTATE_90), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by 90 degrees to see it upright
    lying.save(file, "PNG", exif=exif)
    assert ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).size == (3 * SIDE, SIDE)
    opened = _counted(monkeypatch)
    output = answer(family, about([part(0), part(1), part(2)]), file.getvalue())
    assert isinstance(output, EachLabelScores)
    best = [max(range(3), key=each.probabilities.__getitem__) for each in output.answers]
    assert best == [0, 1, 2]
    assert opened() == 1


def _counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts how often a picture is loaded."""
    from lorabel.media import image

    count, decode = [0], image.decode_image

    def decode_image(*args: object) -> Image.Image:
        count[0] += 1
        return decode(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(image, "decode_image", decode_image)
    return lambda: count[0]


def test_features_of_parts_are_remembered_each_by_its_place(family: DualEncoder) -> None:
    cache, file = FeatureCache({FEATURES: 10**6, TEXTS: 10**6}), png(sheet())
    first = FeaturesInput.of(about([part(0), part(1)]))
    (output,) = family.predict([family.prepare(first, lambda _: file)], [None], BANK, cache)
    assert isinstance(output, Features) and len(output.logits) == 2 * len(LABELS)
    for question, is_known in ((about([part(1)]), True), (about([part(2)]), False), (about([None]), False)):
        recalled = family.recall(question, lambda _: digest(file), None, BANK, cache)
        assert (recalled is not None) is is_known


def test_the_logits_of_features_are_those_behind_the_answers(family: DualEncoder) -> None:
    file, question = png(sheet()), about([part(0), part(1), part(2)])
    prepared = family.prepare(FeaturesInput.of(question), lambda _: file)
    (features,) = family.predict([prepared], [None], BANK, FeatureCache({}))
    output = answer(family, question, file)
    assert isinstance(features, Features) and isinstance(output, EachLabelScores)
    logits = torch.tensor(features.logits).view(3, len(LABELS))
    expected = [list(each.probabilities) for each in output.answers]
    assert logits.softmax(1).tolist() == [pytest.approx(row, abs=1e-4) for row in expected]
