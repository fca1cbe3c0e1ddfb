from pathlib import Path

import pytest

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import NotFoundError


def write_adapter(folder: Path) -> None:
    (folder / "label").mkdir()
    (folder / "label" / "adapter_config.json").write_text("{}")


def test_a_version_that_is_written_can_be_read(tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    adapter_folders.write("p1.v1", write_adapter)
    assert adapter_folders.path("p1.v1/label") == tmp_path / "p1.v1" / "label"
    assert [path.name for path in tmp_path.iterdir()] == ["p1.v1"]


def test_a_failure_while_writing_leaves_no_folder_and_harms_no_other_version(tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    adapter_folders.write("p1.v1", write_adapter)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        adapter_folders.write("p1.v2", fail)
    assert adapter_folders.path("p1.v1/label").is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["p1.v1"]


def test_a_versions_folder_is_never_replaced_and_the_last_number_is_the_highest(
    tmp_path: Path,
) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    assert adapter_folders.last_number(1) == 0
    for version in ("p1.v1", "p1.v10", "p2.v30", "p11.v40"):
        adapter_folders.write(version, write_adapter)
    with pytest.raises(FileExistsError, match="never replaced"):
        adapter_folders.write("p1.v1", write_adapter)
    assert adapter_folders.last_number(1) == 10


def test_the_temporary_folder_of_a_killed_run_is_not_an_adapter_and_can_be_removed(tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    temporary = tmp_path / ".p1.v2.abc"
    temporary.mkdir()
    write_adapter(temporary)
    with pytest.raises(NotFoundError, match=r"p1\.v2/label"):
        adapter_folders.path("p1.v2/label")
    adapter_folders.remove_leftovers("p1.")
    assert not temporary.exists()


@pytest.mark.parametrize(
    "name",
    [
        *("", "label", "../p1.v1/label", "p1.v1/..", "p1.v1/.", "p1.v1/a/b", "/etc/passwd"),
        *("p1.v1/" + "x" * 300, "p1.v1/" + "ü" * 128, "p1.v1/\x00", f"p1.v{'1' * 300}/label", "p².v1/label"),
        *("p1.v٣/label", "p1.v1/\ud800" + "x" * 300),
    ],
)
def test_a_name_that_is_not_an_adapters_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="no adapter name"):
        AdapterFolders(tmp_path).path(name)


def test_a_name_of_the_longest_length_may_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="is not in"):
        AdapterFolders(tmp_path).path("p1.v1/" + "x" * 255)


def test_a_folder_that_is_no_version_does_not_hide_the_last_number(tmp_path: Path) -> None:
    for name in ("p1.v2", "p1.v3.bak", "p1.v²", "p1.v"):
        (tmp_path / name).mkdir()
    assert AdapterFolders(tmp_path).last_number(1) == 2
