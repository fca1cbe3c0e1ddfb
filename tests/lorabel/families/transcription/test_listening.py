"""Which windows are encoded while other sounds are written: nothing is written meanwhile."""

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.speech import CPU_MOST_WINDOWS, Speech
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.settings import Settings
from lorabel.text_contracts import TranscriptInput
from tests.audio_files import encoded, noise

pytestmark = pytest.mark.slow

QUESTION = TranscriptInput(contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),))
# The tiny model hears a second at once, so this has fifteen windows or more.
LONG_S = 15.0


class Room:
    """Sounds that are transcribed, and what each step did: the rows that were in, and whether the encoder began
    with a window."""

    def __init__(self, family: Speech) -> None:
        self._family = family
        self.steps: Any = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
        self.log: list[tuple[frozenset[Hashable], bool]] = []
        self.outputs: dict[Hashable, Any] = {}
        self.windows_encoded = 0
        self.layers = len(family.module.model.encoder.layers)
        family.module.model.encoder.conv1.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.windows_encoded += 1

    def begin(self, row: str, length_s: float, *, is_background: bool = False) -> None:
        file = encoded(noise(sum(map(ord, row)), length_s))
        self.steps.begin(row, self._family.prepare(QUESTION, lambda _: file), None)
        if is_background:
            self.steps.set_background(row)

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            before, rows = self.windows_encoded, frozenset(self.steps.rows)
            for row in self.steps.step():
                self.outputs[row] = self.steps.finish(row)
            self.log.append((rows, self.windows_encoded > before))

    def until_done(self, row: str) -> None:
        for _ in range(5000):
            if row not in self.steps.rows:
                return
            self.step()
        raise AssertionError(f"{row} is never done; in are {self.steps.rows}")

    def until_written(self, count: int) -> None:
        """Step until so many windows are written together, which end now and then."""
        for _ in range(400):
            if len(self.steps.written) == count:
                return
            self.step()
        raise AssertionError(f"{len(self.steps.written)} windows are written, not {count}")

    def encoded_beside(self, row: str) -> int:
        """How many windows were encoded while a row was in, its own among them."""
        return sum(is_encoded for rows, is_encoded in self.log if row in rows)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    torch.manual_seed(2)
    source = write_speech_model(tmp_path / "base", is_multilingual=False)
    return Room(Speech.load(source, torch.device("cpu"), torch.float32, Settings()))


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_the_two_windows_that_begin_next_are_encoded_in_one_step_on_two_cores(
    two_threads: None, room: Room
) -> None:
    """Of one sound, or of two; but not the second window of a sound for which it must wait."""
    room.begin("long", LONG_S)
    room.step(room.layers)
    assert room.windows_encoded == 2
    assert not room.steps.written
    room.step(4 * room.layers)
    before = room.windows_encoded
    room.begin("first", 0.8)
    room.begin("second", 0.8)
    while not {"first", "second"} & set(room.steps.written):
        room.step()
    assert room.windows_encoded <= before + 4
    room.until_done("first")
    room.until_done("second")
    room.until_done("long")


@pytest.mark.parametrize("steps_before", [1, 2, 5, 40])
def test_a_short_sound_waits_for_no_window_of_a_long_one_that_has_not_begun(room: Room, steps_before: int) -> None:
    """Also while the long one has not yet as many windows begun as it may have."""
    room.begin("long", LONG_S)
    room.step(steps_before)
    room.begin("short", 0.8)
    room.until_done("short")
    assert room.encoded_beside("short") == 1, "its own window"
    assert "long" in room.steps.rows
    room.until_done("long")


@pytest.mark.slow
def test_a_long_sound_goes_on_while_short_ones_come_without_an_end(room: Room) -> None:
    """None of them waits for more than one of its windows."""
    room.begin("long", LONG_S)
    names = []
    for number in range(200):
        if "long" not in room.steps.rows:
            break
        names.append(f"short {number}")
        room.begin(names[-1], 0.5)
        room.step(10)
    assert "long" not in room.steps.rows, "it is done before the stream of short ones ends"
    for name in names:
        room.until_done(name)
        others = {row for rows, _ in room.log if name in rows for row in rows if row != "long"}
        assert room.encoded_beside(name) <= len(others) + 1, "each short one has one window"


def test_sounds_in_the_background_begin_no_window_while_one_of_a_person_is_written(room: Room) -> None:
    """Eight long sounds are being written when it comes; a place among the windows is kept for it."""
    for number in range(8):
        room.begin(f"long {number}", LONG_S, is_background=True)
    room.until_written(CPU_MOST_WINDOWS - 1)
    room.begin("short", 0.8)
    room.until_done("short")
    assert room.encoded_beside("short") == 1
    room.until_written(CPU_MOST_WINDOWS - 1)


def test_a_person_s_sound_begins_at_the_next_step_whoever_came_first(room: Room) -> None:
    for number in range(4):
        room.begin(f"long {number}", LONG_S, is_background=True)
    room.begin("short", 0.8)
    room.step(room.layers + 1)
    assert room.steps.written == ["short"]


def test_a_window_is_encoded_on_where_a_short_sound_has_interrupted_it(room: Room) -> None:
    """The short one waits for a layer, not for the window, of which nothing is computed again."""
    room.begin("long", 1.8)
    room.until_done("long")
    alone, windows = room.outputs["long"], room.windows_encoded
    room.begin("long", 1.8)
    room.step()
    room.begin("short", 0.8)
    room.step(room.layers + 1)
    assert room.steps.written == ["short"]
    room.until_done("short")
    room.until_done("long")
    assert room.outputs["long"] == alone
    assert room.windows_encoded == 2 * windows + 1


def test_a_person_s_long_sound_does_not_wait_for_a_short_one_in_the_background(room: Room) -> None:
    """Each would wait for the other."""
    room.begin("short", 0.8, is_background=True)
    room.begin("long", 3.0)
    room.until_done("long")
    assert "short" in room.steps.rows
    room.until_done("short")


@pytest.mark.parametrize("is_background", [False, True])
def test_a_short_sound_is_written_without_the_lines_of_a_long_one(room: Room, is_background: bool) -> None:
    """They would make each of its steps longer. The long one goes on now and then."""
    room.begin("long", LONG_S, is_background=is_background)
    while len(room.steps.written) < CPU_MOST_WINDOWS - 1:
        room.step()
    room.step(5)
    room.begin("short", 0.8)
    sizes: list[int] = []
    room._family.module.model.decoder.register_forward_hook(
        lambda module, inputs, output: sizes.append(len(output.last_hidden_state))
    )
    room.step(3)
    assert "short" in room.steps.written, "a place is kept for it: no line of the long one must end before"
    sizes.clear()
    room.until_done("short")
    lines_of_long = [size for size in sizes if size > 1]
    assert len(sizes) > 9 and len(lines_of_long) <= 1 + len(sizes) // 9
    room.until_done("long")
