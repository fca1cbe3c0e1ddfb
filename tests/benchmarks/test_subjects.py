"""Checks every subject's function and title, without measuring."""

import inspect

import pytest

from benchmarks import subjects


@pytest.mark.parametrize("name", subjects.names())
def test_every_file_in_the_folder_is_a_subject_with_a_title(name: str) -> None:
    module = subjects._module(name)
    assert list(inspect.signature(module.measure).parameters) == ["plan"]
    assert subjects.title(name) != name
