"""Figures of several calls of a benchmark in one file, each with what it was measured on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figure = Mapping[str, Any]


@dataclass(frozen=True)
class KeptFigures:
    """The figures in a JSON file, in parts. The folder of the file need not exist."""

    file: Path

    def add(self, part: str, figures: Iterable[Figure], identity: Sequence[str], machine: str) -> None:
        """Write figures, in place of those of the part that have the same identity.

        Args:
            identity: the fields that say what was measured.
            machine: `Machine.line`, described before anything was measured.
        """
        new, kept = list(figures), self._read()
        known = {tuple(figure[field] for field in identity) for figure in new}
        others = [
            each for each in kept.get(part, []) if tuple(each["figure"][field] for field in identity) not in known
        ]
        measured = [{"machine": machine, "figure": figure} for figure in new]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(kept | {part: [*others, *measured]}, indent=1))

    def of(self, part: str) -> list[dict[str, Any]]:
        """The figures of a part, in the order in which they were added."""
        return [dict(each["figure"]) for each in self._read().get(part, [])]

    def machines(self) -> str:
        """What the figures were measured on: a line for each machine, commit and load."""
        return "\n\n".join(dict.fromkeys(each["machine"] for part in self._read().values() for each in part))

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        kept: dict[str, list[dict[str, Any]]] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return kept
