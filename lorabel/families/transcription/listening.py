"""Sounds whose windows are written together, whatever their rows: windows are encoded in steps of their own.

While windows are encoded, nothing is written. So a sound that is almost written waits for one step of each longer
sound at most, and for none of a row in the background. Short sounds are written apart from longer ones, whose
lines would make each of their steps longer.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from lorabel.contracts import Contract
from lorabel.families.generation.decoding import Decoding
from lorabel.families.generation.stepwise import Steps
from lorabel.families.transcription.heard_sound import Line, PreparedSound, Window
from lorabel.families.transcription.told_words import Told
from lorabel.text_contracts import WrittenText

# A row of `Decoding`: the row here, and the number of the window.
Key = tuple[Hashable, int]
# Of the windows that are written together, those that are kept for short sounds.
KEPT_WINDOWS = 1
# Steps in which short sounds are written before one in which longer ones are, while there are both.
SHORT_STEPS = 8


@dataclass
class _Sound:
    """A row.

    Args:
        waiting: the windows that are not being written yet, by their numbers.
        lines: of the windows that are being written.
        texts: of the windows that are done.
        is_background: whether it gives way to rows that are not in the background.
        almost_written: the rows that were almost written when this one last had a window begun, and the short one
            that passed it since.
        is_passed: whether a short row had its window begun while this one waited for its next.
    """

    prepared: PreparedSound
    adapter: str | None
    waiting: deque[int]
    lines: dict[int, Line] = field(default_factory=dict)
    texts: dict[int, WrittenText] = field(default_factory=dict)
    is_background: bool = False
    almost_written: frozenset[Hashable] = frozenset()
    is_passed: bool = False

    @property
    def is_almost_written(self) -> bool:
        """Whether its only window, or its last one, is written now or begins soon."""
        return not self.waiting or len(self.prepared.windows) == 1

    @property
    def is_short(self) -> bool:
        """Whether a person waits for its only window."""
        return len(self.prepared.windows) == 1 and not self.is_background


class Listening(Steps):
    """Rows whose windows are transcribed; see `Steps`.

    Rows take turns in having a window begun, so that a short sound does not wait for all of a long one, and one
    short sound goes before each window of a longer one. A row that is almost written when a longer one has a
    window begun is written before that one has its next window begun.

    Args:
        of_short: writes the lines of short sounds.
        of_long: writes all others.
        hear: computes what is heard in windows that lack it; False if the first of them lacks nothing.
        line: makes the line of a window that was heard, with what the model is told.
        written_anew: makes the line by which a window is written again, where its text cannot be right; else None.
        most_windows: that are written together.
        most_heard: windows that are heard in a step, at most.
        output: makes the output of a row.
    """

    def __init__(
        self,
        of_short: Decoding,
        of_long: Decoding,
        hear: Callable[[Sequence[Window]], bool],
        line: Callable[[Window, Told], Line],
        written_anew: Callable[[Line, WrittenText], Line | None],
        most_windows: int,
        most_heard: int,
        output: Callable[[PreparedSound, Sequence[WrittenText]], Contract],
    ) -> None:
        self._of_short, self._of_long, self._hear, self._line = of_short, of_long, hear, line
        self._written_anew, self._output = written_anew, output
        self._most_windows, self._most_heard = most_windows, most_heard
        self._sounds: dict[Hashable, _Sound] = {}
        self._turns: deque[Hashable] = deque()
        self._short_steps = 0

    @property
    def rows(self) -> Sequence[Hashable]:
        """The rows that are in; see `Steps.rows`."""
        return tuple(self._sounds)

    @property
    def written(self) -> Sequence[Hashable]:
        """The rows of the windows that are being written, each as often as it has such windows."""
        return [key[0] for key in cast(Sequence[Key], (*self._of_short.rows, *self._of_long.rows))]

    def has_room(self, prepared_input: Any) -> bool:
        """True: windows wait until there is room for them."""
        return True

    def begin(self, row: Hashable, prepared_input: PreparedSound, adapter: str | None) -> None:
        """Let a row join; see `Steps.begin`."""
        windows = deque(range(len(prepared_input.windows)))
        self._sounds[row] = _Sound(prepared_input, adapter, windows)
        self._turns.append(row)

    def set_background(self, row: Hashable) -> None:
        """Let a row give way to others; see `Steps.set_background`."""
        self._sounds[row].is_background = True

    def step(self) -> Sequence[Hashable]:
        """Encode the windows that may begin next; else write a token of each window that is written."""
        while rows := self._next_rows():
            row = rows[0]
            sound = self._sounds[row]
            number = sound.waiting[0]
            window = sound.prepared.windows[number]
            if self._hear(self._next_windows(rows)):
                return ()
            self._begin(row, number, self._line(window, sound.prepared.told))
            sound.waiting.popleft()
            self._turns.remove(row)
            if sound.waiting:
                self._turns.append(row)
            sound.almost_written, sound.is_passed = frozenset(self._almost_written(row)), False
            if sound.is_short:
                self._let_pass(row)
        return self._write()

    def _next_rows(self) -> list[Hashable]:
        """The rows of which a window may begin now, in the order of their turns."""
        in_background = all(sound.is_background for sound in self._sounds.values())
        rows = [
            row
            for row in self._turns
            if self._sounds[row].is_background == in_background
            and not self._sounds[row].almost_written & self._sounds.keys()
            and self._has_place(self._sounds[row])
        ]
        short = [row for row in rows if self._sounds[row].is_short]
        return rows if any(self._sounds[row].is_passed for row in rows) else short or rows

    def _let_pass(self, short: Hashable) -> None:
        """Let longer sounds wait until a short one is written, whose window began before their next."""
        for row in self._turns:
            sound = self._sounds[row]
            if not sound.is_short and not sound.is_passed:
                sound.almost_written, sound.is_passed = sound.almost_written | {short}, True

    def _has_place(self, sound: _Sound) -> bool:
        kept = 0 if sound.is_short else KEPT_WINDOWS
        return len(self.written) < max(1, self._most_windows - kept)

    def _next_windows(self, rows: Sequence[Hashable]) -> list[Window]:
        """The windows of these rows that begin next, at least one of them and at most `most_heard`."""
        windows = [self._waiting_window(row, 0) for row in rows]
        windows += [
            self._waiting_window(row, 1)
            for row in rows
            if len(self._sounds[row].waiting) > 1 and not list(self._almost_written(row))
        ]
        room = self._most_windows - len(self.written)
        return windows[: max(1, min(self._most_heard, room))]

    def _waiting_window(self, row: Hashable, place: int) -> Window:
        sound = self._sounds[row]
        return sound.prepared.windows[sound.waiting[place]]

    def _almost_written(self, row: Hashable) -> Iterator[Hashable]:
        """Rows for which a row waits before it has its next window begun; none that themselves wait for it."""
        for other, sound in self._sounds.items():
            if other != row and sound.is_almost_written and sound.is_background <= self._sounds[row].is_background:
                yield other

    def _begin(self, row: Hashable, number: int, line: Line) -> None:
        sound = self._sounds[row]
        sound.lines[number] = line
        if sound.adapter is None:
            line.keys = line.window.keys
        line.window.keys = []
        self._decoding(sound).begin((row, number), line, sound.adapter)

    def _write(self) -> Sequence[Hashable]:
        done: list[Hashable] = []
        decoding = self._next_decoding()
        for key in decoding.step():
            row, number = cast(Key, key)
            sound = self._sounds[row]
            text = cast(WrittenText, decoding.finish(key))
            again = self._written_anew(sound.lines.pop(number), text)
            if again is not None:
                self._begin(row, number, again)
                continue
            sound.texts[number] = text
            if len(sound.texts) == len(sound.prepared.windows):
                done.append(row)
        return done

    def _decoding(self, sound: _Sound) -> Decoding:
        return self._of_short if sound.is_short else self._of_long

    def _next_decoding(self) -> Decoding:
        """Short sounds go before longer ones, which are never kept waiting for ever."""
        if not self._of_short.rows:
            return self._of_long
        if not self._of_long.rows:
            return self._of_short
        self._short_steps = (self._short_steps + 1) % (SHORT_STEPS + 1)
        return self._of_short if self._short_steps else self._of_long

    def finish(self, row: Hashable) -> Contract:
        """Return what was written about a sound, which leaves; see `Steps.finish`."""
        sound = self._sounds[row]
        output = self._output(sound.prepared, [text for _, text in sorted(sound.texts.items())])
        self.leave(row)
        return output

    def leave(self, row: Hashable) -> None:
        """Let a row leave; see `Steps.leave`."""
        decoding = self._decoding(self._sounds[row])
        for key in cast(Sequence[Key], decoding.rows):
            if key[0] == row:
                decoding.leave(key)
        del self._sounds[row]
        if row in self._turns:
            self._turns.remove(row)
