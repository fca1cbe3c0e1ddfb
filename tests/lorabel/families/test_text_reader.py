"""`text_reader` on drawn receipts, whose lines are known."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.evaluation.box_matching import match_boxes
from lorabel.families import loading
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.text_lines.fit_lines import AnnotatedPicture, fit_lines
from lorabel.families.text_reader import PACKAGE, TextReader
from lorabel.feature_contracts import Features, LineFeaturesInput
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.space_contracts import DrawnPart, TextLines, TextLinesInput, TextLinesTarget
from tests.receipts import FONT, DrawnLine, draw_receipt

pytestmark = pytest.mark.slow

PICTURE = (Content(modality=Modality.IMAGE, media=MediaRef(url="receipt.png")),)
QUESTION = TextLinesInput(contents=PICTURE, labels=(("Shop",), ("Total",)))


@pytest.fixture(scope="module")
def family() -> TextReader:
    return TextReader.load(PACKAGE, torch.device("cpu"), torch.float32, Settings())


def read(family: TextReader, file: bytes, cache: FeatureCache | None = None) -> TextLines:
    prepared = family.prepare(QUESTION, lambda _: file)
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, cache or FeatureCache({}))
    assert isinstance(output, TextLines)
    return output


def check(found: TextLines, drawn: tuple[DrawnLine, ...]) -> None:
    """Each drawn line was found and read, and nothing else."""
    pairs = match_boxes([line.corners for line in drawn], [line.corners for line in found.lines])
    assert len(pairs) == len(drawn) == len(found.lines)
    assert [found.lines[j].text for _, j in pairs] == [drawn[i].text for i, _ in pairs]


def as_file(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_the_lines_of_a_receipt_are_found_and_read(family: TextReader) -> None:
    receipt = draw_receipt(0)
    found = read(family, receipt.png)
    assert (found.width, found.height) == (360, 480)
    check(found, receipt.lines)
    assert all(0.9 < line.probability <= 1.0 and line.label_probabilities == () for line in found.lines)


@pytest.mark.parametrize("large", [1, 12])
def test_the_text_of_a_drawn_part_is_read_alone(family: TextReader, large: int) -> None:
    """Before, a smart rectangle was answered with all lines of the picture."""
    receipt = draw_receipt(0)
    size = (360 * large, 480 * large)
    file = receipt.png if large == 1 else as_file(Image.open(io.BytesIO(receipt.png)).resize(size), "JPEG")
    # Each question decodes the picture anew, which takes a second for the large one.
    for line in receipt.lines[::2] if large == 1 else receipt.lines[:2]:
        part = DrawnPart(corners=line.corners, id="drawn", label=1)
        prepared = family.prepare(QUESTION.model_copy(update={"part": part}), lambda _: file)
        (found,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(found, TextLines) and (found.width, found.height) == size
        (text_line,) = found.lines
        assert (text_line.text, text_line.id, text_line.corners) == (line.text, "drawn", line.corners)
        assert text_line.label_probabilities == (0.0, 0.0, 1.0)


def test_a_part_of_a_line_several_lines_and_an_empty_part(family: TextReader) -> None:
    receipt, cache = draw_receipt(0), FeatureCache({FEATURES: 10**6})
    read(family, receipt.png, cache)
    first, second = receipt.lines[:2]

    def text_of(corners: tuple[float, float, float, float]) -> list[str]:
        asked = QUESTION.model_copy(update={"part": DrawnPart(corners=corners)})
        assert family.recall(asked, lambda _: digest(receipt.png), None, NO_BATCH_ADAPTERS, cache) is None
        prepared = family.prepare(asked, lambda _: receipt.png)
        (found,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, cache)
        assert isinstance(found, TextLines)
        return [line.text for line in found.lines]

    (left, top, right, bottom), other = first.corners, second.corners
    both = (min(left, other[0]), min(top, other[1]), max(right, other[2]), max(bottom, other[3]))
    assert text_of(both) == [f"{first.text}\n{second.text}"]
    (part,) = text_of((left, top, left + (right - left) * 0.55, bottom))
    assert part and first.text.startswith(part[:4]) and len(part) < len(first.text)
    assert text_of((0.0, 0.0, 0.03, 0.03)) == []
    check(read(family, receipt.png, cache), receipt.lines)


def test_lines_stand_where_people_see_them_in_a_picture_that_exif_turns(family: TextReader) -> None:
    receipt = draw_receipt(1)
    stored = Image.open(io.BytesIO(receipt.png)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read(family, as_file(stored, "JPEG", quality=95, exif=exif))
    assert (found.width, found.height) == (360, 480)
    check(found, receipt.lines)


def test_the_size_of_a_large_picture_is_its_own_although_it_is_read_smaller(family: TextReader) -> None:
    receipt = draw_receipt(2)
    large = Image.open(io.BytesIO(receipt.png)).resize((4320, 5760))
    found = read(family, as_file(large, "JPEG"))
    assert (found.width, found.height) == (4320, 5760)
    check(found, receipt.lines)


@pytest.mark.parametrize(
    "size", [(1, 1), (64, 48), *(pytest.param(size, marks=pytest.mark.slow) for size in ((20, 2000), (30000, 3)))]
)
def test_a_picture_without_text_has_no_lines(family: TextReader, size: tuple[int, int]) -> None:
    found = read(family, as_file(Image.new("RGB", size, "white"), "PNG"))
    assert (found.lines, (found.width, found.height)) == ((), size)


def test_lines_of_a_long_strip_are_read_where_they_are(family: TextReader) -> None:
    """rapidocr alone would enlarge it to 54 megapixels."""
    strip = Image.new("RGB", (1600, 60), "white")
    letters = ImageFont.truetype(str(FONT), 24)
    drawn = []
    for x, text in ((40, "Corner Bakery"), (1250, "TOTAL 6.00")):
        ImageDraw.Draw(strip).text((x, 14), text, "black", letters)
        left, top, right, bottom = ImageDraw.Draw(strip).textbbox((x, 14), text, letters)
        corners = ((left - 3) / 1600, (top - 3) / 60, (right + 3) / 1600, (bottom + 3) / 60)
        drawn.append(DrawnLine(text, None, corners))
    check(read(family, as_file(strip, "PNG")), tuple(drawn))


def test_a_picture_is_read_once_for_all_questions(family: TextReader) -> None:
    receipt, cache = draw_receipt(0), FeatureCache({FEATURES: 10**6})
    found = read(family, receipt.png, cache)
    features_question = LineFeaturesInput(contents=PICTURE, labels=QUESTION.labels)

    def recalled(question: TextLinesInput | LineFeaturesInput, file: bytes = receipt.png) -> object:
        prepared = family.recall(question, lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)
        return None if prepared is None else family.answer(prepared, None, NO_BATCH_ADAPTERS, cache)

    assert recalled(QUESTION) == found
    features = recalled(features_question)
    assert isinstance(features, Features) and features.lines == found.lines
    assert recalled(QUESTION, b"another file") is None

    target = TextLinesTarget(tuple((line.corners, line.text, 1) for line in found.lines[:3]))
    head = fit_lines([AnnotatedPicture(found.lines, target)] * 2, len(QUESTION.labels))
    assert head is not None
    prepared = family.recall(QUESTION, lambda _: digest(receipt.png), None, NO_BATCH_ADAPTERS, cache)
    assert prepared is not None
    with_head = family.answer(family.with_head(prepared, head), None, NO_BATCH_ADAPTERS, cache)
    assert isinstance(with_head, TextLines)
    assert [line.text for line in with_head.lines] == [line.text for line in found.lines[:3]], (
        "others are left out"
    )
    assert all(np.argmax(line.label_probabilities) == 2 for line in with_head.lines)
    other_labels = QUESTION.model_copy(update={"labels": (("Shop",),)})
    with pytest.raises(UnreadableError, match="has weights of shape"):
        family.with_head(family.prepare(other_labels, lambda _: receipt.png), head)


def test_a_broken_file_is_unreadable_for_good(family: TextReader) -> None:
    with pytest.raises(UnreadableError) as error:
        family.prepare(QUESTION, lambda _: b"no picture")
    assert error.value.is_permanent


def test_models_in_a_folder_are_loaded_and_a_missing_one_is_named(family: TextReader, tmp_path: Path) -> None:
    device = torch.device("cpu")
    with pytest.raises(SettingsError, match=r"MODEL_TEXT_READER='local-dir:.*0 files .*_det_"):
        TextReader.load(f"local-dir:{tmp_path}", device, torch.float32, Settings())
    with pytest.raises(SettingsError, match="there is no such package"):
        TextReader.load("no-such-package", device, torch.float32, Settings())
    import rapidocr

    for file in (Path(rapidocr.__file__).parent / "models").glob("*.onnx"):
        (tmp_path / file.name).symlink_to(file)
    assert TextReader.load(f"local-dir:{tmp_path}", device, torch.float32, Settings()).source.startswith("local")


def test_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(loading, "unreachable_hub", fail)
    assert loading.load_family(TextReader, Settings(device="cpu")).source == PACKAGE


def test_opencv_is_the_one_that_needs_no_screen() -> None:
    """`opencv-python` needs libGL, which servers and slim images lack; both packages write the same folder."""
    lock = (Path(__file__).parents[3] / "requirements.lock").read_text()
    assert "opencv-python-headless==" in lock and "opencv-python==" not in lock
