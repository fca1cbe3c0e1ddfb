"""Figures of several calls beside each other, with what they were measured on."""

from pathlib import Path

from benchmarks.kept_figures import KeptFigures


def test_figures_stay_with_the_machine_that_they_were_measured_on(tmp_path: Path) -> None:
    kept = KeptFigures(tmp_path / "folder" / "figures.json")
    assert kept.of("speeds") == [] and kept.machines() == ""
    kept.add("speeds", [{"name": "a", "ms": 1}, {"name": "b", "ms": 2}], ("name",), "commit 1")
    kept.add("losses", [{"name": "a", "points": 3}], ("name",), "commit 1")
    kept.add("speeds", [{"name": "a", "ms": 4}], ("name",), "commit 2")
    assert kept.of("speeds") == [{"name": "b", "ms": 2}, {"name": "a", "ms": 4}]
    assert kept.of("losses") == [{"name": "a", "points": 3}]
    assert kept.machines() == "commit 1\n\ncommit 2"
