import stat
from pathlib import Path

import pytest

from lorabel.database.store import Store
from lorabel.errors import SettingsError
from lorabel.private_folders import is_private, make_private
from lorabel.settings import Settings


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_data_dir_is_private_and_its_parents_are_as_usual(tmp_path: Path) -> None:
    make_private(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    assert mode(tmp_path / "a") == mode(_made_as_usual(tmp_path))


def test_a_data_dir_that_others_may_read_is_made_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_folder_that_is_shared_on_purpose_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_opening_the_database_in_data_dir_makes_it_private(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Store.open(Settings(data_dir=tmp_path)).close()
    assert mode(tmp_path) == 0o700


@pytest.mark.parametrize("path", ["file", "file/folder"])
def test_a_data_dir_that_is_a_file_is_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=f"DATA_DIR {tmp_path}/{path} cannot be used"):
        make_private(tmp_path / path)


def test_neither_a_link_nor_a_folder_that_others_may_enter_is_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    make_private(tmp_path / "closed")
    (tmp_path / "link").symlink_to(tmp_path / "closed")
    private = [name for name in ("open", "closed", "link", "missing") if is_private(tmp_path / name)]
    assert private == ["closed"]


def _made_as_usual(tmp_path: Path) -> Path:
    (tmp_path / "usual").mkdir()
    return tmp_path / "usual"
