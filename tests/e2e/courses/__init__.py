"""Courses: tasks with right results, one kind of labeling per file; each file has one `COURSE`.

`tests/e2e/test_every_problem_learns.py` finds the courses and teaches each in the real Label Studio.
"""

import base64
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from lorabel.labeling.regions import Region

LabeledTask = tuple[dict[str, Any], list[Region]]
"""A task's data, and its right result."""


@dataclass(frozen=True)
class Course:
    """A project that Lorabel must learn.

    Args:
        label_config: has one or more control tags.
        make_tasks: returns `tasks`. To draw pictures takes seconds, and most importers of a course need none.
        variables: takes an empty folder; returns environment variables that name the base models.
        primary: control tag -> the figure that must be better after training than before.
        unseen: number of tasks at the end that are only predicted.
        is_silent_before: nothing is predicted before the first training, as for a rating.
    """

    label_config: str
    make_tasks: Callable[[], Sequence[LabeledTask]]
    variables: Callable[[Path], Mapping[str, str]]
    primary: Mapping[str, str]
    unseen: int = 8
    is_silent_before: bool = False

    @cached_property
    def tasks(self) -> Sequence[LabeledTask]:
        """All but the last `unseen` are annotated. Lorabel holds out a fifth of the annotated tasks."""
        return self.make_tasks()


def names() -> list[str]:
    """Names of the files, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Course:
    """The course of a file."""
    course: Course = import_module(f"{__name__}.{name}").COURSE
    return course


def data_url(file: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(file).decode()}"
