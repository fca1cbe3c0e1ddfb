"""What an annotator knows about one kind of labeling; each file here holds one `COURSE`.

`tests/e2e/test_every_problem_learns.py` finds them, and takes each through the real Label Studio.
"""

import base64
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lorabel.labeling.regions import Region

Known = tuple[dict[str, Any], list[Region]]
"""A task's data, and the result that is right for it."""


@dataclass(frozen=True)
class Course:
    """
    Args:
        label_config: one control tag or several.
        tasks: all are annotated but the last `unseen`; a fifth of those that are is held out by Lorabel.
        variables: given an empty folder, Lorabel's settings: the base models that it takes.
        primary: by control tag the figure that must be better after training than before.
        is_silent_before: nothing is predicted before the first training, as for a rating.
    """

    label_config: str
    tasks: Sequence[Known]
    variables: Callable[[Path], Mapping[str, str]]
    primary: Mapping[str, str]
    unseen: int = 8
    is_silent_before: bool = False


def find() -> dict[str, Course]:
    """By the name of the file."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: import_module(f"{__name__}.{name}").COURSE for name in names}


def data_url(file: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(file).decode()}"
