from pathlib import Path

import pytest

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import NotFoundError


def write_adapter(folder: Path) -> None:
    (folder / "label").mkdir()
    (folder / "label" / "adapter_config.json").write_text("{}")


def test_a_version_appears_whole(tmp_path: Path) -> None:
    registry = AdapterFolders(tmp_path)
    registry.write("p1.v1", write_adapter)
    assert registry.path("p1.v1/label") == tmp_path / "p1.v1" / "label"
    assert [path.name for path in tmp_path.iterdir()] == ["p1.v1"]


def test_a_failure_while_writing_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    registry = AdapterFolders(tmp_path)
    registry.write("p1.v1", write_adapter)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        registry.write("p1.v2", fail)
    assert registry.path("p1.v1/label").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["p1.v1"]


def test_a_versions_folder_is_never_replaced_and_its_number_never_used_again(tmp_path: Path) -> None:
    registry = AdapterFolders(tmp_path)
    assert registry.last_number(1) == 0
    for version in ("p1.v1", "p1.v10", "p2.v30", "p11.v40"):
        registry.write(version, write_adapter)
    with pytest.raises(FileExistsError, match="never replaced"):
        registry.write("p1.v1", write_adapter)
    assert registry.last_number(1) == 10


def test_what_a_killed_run_wrote_aside_is_never_found_and_can_be_removed(tmp_path: Path) -> None:
    registry = AdapterFolders(tmp_path)
    aside = tmp_path / ".p1.v2.abc"
    aside.mkdir()
    write_adapter(aside)
    with pytest.raises(NotFoundError, match=r"p1\.v2/label"):
        registry.path("p1.v2/label")
    registry.remove_leftovers("p1.")
    assert not aside.exists()


@pytest.mark.parametrize(
    "name", ["", "label", "../p1.v1/label", "p1.v1/..", "p1.v1/.", "p1.v1/a/b", "/etc/passwd"]
)
def test_a_name_that_points_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="no adapter name"):
        AdapterFolders(tmp_path).path(name)
