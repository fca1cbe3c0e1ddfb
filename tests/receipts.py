"""Drawn receipts with known lines, for tests of text in pictures."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from lorabel.space_contracts import Corners

# matplotlib brings the font, so that it is there on every machine.
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
LABELS = ("Shop", "Date", "Item", "Total")
SHOPS = ("Corner Bakery", "Blue Kitchen", "Harbour Books", "Green Garden", "North Garage", "Old Mill Cafe")
STREETS = ("Mill Lane", "Station Road", "King Street", "River Walk", "Park Avenue")
ITEMS = ("Bread", "Coffee", "Tea", "Apples", "Paper", "Candles", "Soap", "Honey", "Pencils", "Butter", "Olives")
THANKS = ("Thank you", "See you soon", "Have a nice day")
WIDTH, HEIGHT = 360, 480
SIZE_PX, LARGE_PX = 18, 24
MARGIN_PX = 24
# What the reader's boxes have around the letters.
PAD_PX = 3


@dataclass(frozen=True)
class DrawnLine:
    """A line of a picture; `label` is one of LABELS, or None."""

    text: str
    label: str | None
    corners: Corners


@dataclass(frozen=True)
class Receipt:
    """A PNG file, and the lines that it shows, from top to bottom."""

    png: bytes
    lines: tuple[DrawnLine, ...]


def draw_receipt(number: int) -> Receipt:
    """Draw a receipt; each number has another one."""
    dice = random.Random(number)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    lines: list[DrawnLine] = []
    is_centred = dice.random() < 0.5
    y = MARGIN_PX + dice.randrange(20)

    def write(text: str, label: str | None, size_px: int = SIZE_PX, *, at_right: bool = False) -> None:
        font = ImageFont.truetype(str(FONT), size_px)
        width = draw.textlength(text, font)
        x = WIDTH - MARGIN_PX - width if at_right else (WIDTH - width) / 2 if is_centred else MARGIN_PX
        if label in ("Item", "Total") and not at_right:
            x = MARGIN_PX
        draw.text((x, y), text, "black", font)
        left, top, right, bottom = draw.textbbox((x, y), text, font)
        box = (
            (left - PAD_PX) / WIDTH,
            (top - PAD_PX) / HEIGHT,
            (right + PAD_PX) / WIDTH,
            (bottom + PAD_PX) / HEIGHT,
        )
        lines.append(DrawnLine(text, label, box))

    write(dice.choice(SHOPS), "Shop", LARGE_PX)
    y += 44
    write(f"{dice.randrange(1, 99)} {dice.choice(STREETS)}", None)
    y += 34
    write(f"2026-{dice.randrange(1, 13):02}-{dice.randrange(1, 29):02}", "Date")
    total = 0
    for item in dice.sample(ITEMS, dice.randrange(2, 5)):
        cents = dice.randrange(100, 999)
        y, total = y + 40, total + cents
        write(item, "Item")
        write(f"{cents / 100:.2f}", None, at_right=True)
    y += 46
    write("TOTAL", None)
    write(f"{total / 100:.2f}", "Total", at_right=True)
    y += 50
    write(dice.choice(THANKS), None)
    return Receipt(_png(image), tuple(lines))


def draw_lines(texts: Sequence[str], font: Path = FONT, size_px: int = SIZE_PX, blur_px: float = 0.0) -> Receipt:
    """Draw a page with these lines, one below the other."""
    from PIL import ImageFilter

    image = Image.new("RGB", (WIDTH, MARGIN_PX * 2 + 2 * size_px * len(texts)), "white")
    draw, letters = ImageDraw.Draw(image), ImageFont.truetype(str(font), size_px)
    lines = []
    for number, text in enumerate(texts):
        x, y = MARGIN_PX, MARGIN_PX + 2 * size_px * number
        draw.text((x, y), text, "black", letters)
        left, top, right, bottom = draw.textbbox((x, y), text, letters)
        corners = (
            (left - PAD_PX) / image.width,
            (top - PAD_PX) / image.height,
            min(1.0, (right + PAD_PX) / image.width),
            (bottom + PAD_PX) / image.height,
        )
        lines.append(DrawnLine(text, None, corners))
    if blur_px:
        image = image.filter(ImageFilter.GaussianBlur(blur_px))
    return Receipt(_png(image), tuple(lines))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
