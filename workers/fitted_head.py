"""A fitted head before it is stored."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FittedHead:
    """A head as it is stored. `file` is the content of its file, the other fields are those of `ProjectHead`."""

    file: bytes
    labels: str
    adapter: str | None
    annotation_ids: list[int]
