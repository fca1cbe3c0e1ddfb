"""Tokens are in the database encrypted only, with keys that can be changed, and a wrong key says what to do."""

import errno
import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from typer.testing import CliRunner

from lorabel.commands.cli import app
from lorabel.contracts import MediaRef
from lorabel.database import projects, stored_tokens
from lorabel.database import store as database_store
from lorabel.database.erasure import erase_deleted
from lorabel.database.store import Store
from lorabel.errors import SecretKeyError
from lorabel.label_studio.access import label_studio_access
from lorabel.label_studio.media_authorizations import Authorizations
from lorabel.label_studio.project_titles import project_titles
from lorabel.secret_keys import FILE, Keyring, new_key
from lorabel.settings import Settings
from tests.backend import requests
from tests.lorabel.database.test_migrations import put_back

TOKEN = "hush-4711-token"
URL = "http://labels.test"


def keys_in(*keys: str, folder: Path) -> Settings:
    return Settings(data_dir=folder, lorabel_secret_key=SecretStr(",".join(keys)))


def in_files(folder: Path, word: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


def opened(store: Store, settings: Settings) -> str | None:
    with store.read() as session:
        access = label_studio_access(projects.get(session, 1), settings)
    assert access is not None
    return access.api_key


def test_a_token_is_in_no_file_as_plain_text(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN, setup_token=TOKEN)
    assert opened(store, settings) == TOKEN
    store.close()
    assert in_files(settings.data_dir, TOKEN) == []
    key = settings.data_dir / FILE
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_the_same_token_is_not_written_again(store: Store) -> None:
    first = projects.upsert(store, 1, api_key=TOKEN)
    assert projects.upsert(store, 1, api_key=TOKEN).api_key == first.api_key
    assert projects.upsert(store, 1, api_key=None).api_key is None
    assert projects.upsert(store, 1, api_key="").api_key == ""


def test_tokens_of_an_older_version_are_encrypted_by_the_migration(settings: Settings, store: Store) -> None:
    put_back(store, "0018")
    projects.upsert(store, 1, label_studio_url=URL, label_config=requests.CONFIG)
    with store.write() as session:
        session.execute(text(f"UPDATE project SET api_key = '{TOKEN}', setup_token = 'plain-setup-1'"))
    assert opened(store, settings) == TOKEN
    assert in_files(settings.data_dir, TOKEN)
    store.migrate()
    assert in_files(settings.data_dir, TOKEN) == in_files(settings.data_dir, "plain-setup-1") == []
    assert opened(store, settings) == TOKEN


def test_a_wrong_key_says_what_to_do(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN)
    with pytest.raises(SecretKeyError, match=r"another key than LORABEL_SECRET_KEY has; add the former key"):
        opened(store, keys_in(new_key(), folder=settings.data_dir))
    (settings.data_dir / FILE).rename(settings.data_dir / "elsewhere")
    with pytest.raises(SecretKeyError, match=r"is missing; put the file back"):
        opened(store, settings)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretKeyError, match=r"LORABEL_SECRET_KEY has something that is no key") as caught:
        Keyring.of(keys_in("my-pass-phrase", folder=tmp_path))
    assert "my-pass-phrase" not in str(caught.value)
    with pytest.raises(SecretKeyError, match="has something that is no key"):
        Keyring.of(keys_in(" ", " ", folder=tmp_path))


def test_a_new_first_key_encrypts_and_the_former_one_decrypts(tmp_path: Path) -> None:
    former, newer = new_key(), new_key()
    sealed = Keyring.of(keys_in(former, folder=tmp_path)).seal(TOKEN)
    both = Keyring.of(keys_in(newer, former, folder=tmp_path))
    assert both.open(sealed) == TOKEN
    assert Keyring.of(keys_in(newer, folder=tmp_path)).open(both.seal(TOKEN)) == TOKEN


def test_two_processes_that_need_the_first_key_get_the_same(tmp_path: Path) -> None:
    keyrings = [Keyring.of(Settings(data_dir=tmp_path)) for _ in range(2)]
    sealed = [keyring.seal(TOKEN) for keyring in keyrings]
    assert [keyring.open(text) for keyring, text in zip(keyrings, reversed(sealed), strict=True)] == [TOKEN] * 2
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_rotate_encrypts_every_token_with_a_new_key(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN)
    former = (settings.data_dir / FILE).read_text()
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    if settings.database_url is not None:
        monkeypatch.setenv("DATABASE_URL", settings.database_url)
    result = CliRunner().invoke(app, ["keys", "rotate"], env=dict(os.environ))
    assert result.exit_code == 0 and "1 tokens are encrypted" in result.output
    assert former.strip() not in (settings.data_dir / FILE).read_text()
    assert opened(store, settings) == TOKEN
    assert stored_tokens.check(store) == 1


def test_rotations_at_once_wait_for_each_other_and_lose_no_token(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN)
    former = (settings.data_dir / FILE).read_text().strip()

    def rotate(_: int) -> None:
        with Keyring.of(settings).rotation():
            stored_tokens.seal_again(store)
            assert store.keyring.check().startswith("2 in ")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(rotate, range(8)))
    assert opened(store, settings) == TOKEN
    keys = (settings.data_dir / FILE).read_text().split()
    assert len(keys) == 1 and keys != [former]


def test_a_rotation_that_fails_keeps_every_key(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN)
    with pytest.raises(KeyboardInterrupt), store.keyring.rotation():
        raise KeyboardInterrupt
    assert opened(store, settings) == TOKEN


def test_no_new_key_is_made_where_tokens_have_another(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN)
    (settings.data_dir / FILE).rename(settings.data_dir / "elsewhere")
    with pytest.raises(SecretKeyError, match=r"is missing; put the file back .* if it is lost, `lorabel keys new"):
        projects.upsert(store, 2, label_studio_url=URL, api_key=TOKEN)
    assert not (settings.data_dir / FILE).exists()
    (settings.data_dir / "elsewhere").rename(settings.data_dir / FILE)
    assert opened(store, settings) == TOKEN


def test_a_key_that_cannot_be_written_is_an_error_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "this file system has no links")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(SecretKeyError, match="this file system has no links; set LORABEL_SECRET_KEY instead"):
        Keyring.of(Settings(data_dir=tmp_path)).seal(TOKEN)
    assert list(tmp_path.iterdir()) == []


def test_with_a_wrong_key_whatever_needs_no_token_goes_on(settings: Settings, store: Store) -> None:
    projects.upsert(store, 1, label_studio_url=URL, api_key=TOKEN)
    project = projects.upsert(store, 2, hostname=URL, setup_token=TOKEN)
    other = keys_in(new_key(), folder=settings.data_dir)
    refused: list[int] = []
    for row in (projects.upsert(store, 1), project):
        access = label_studio_access(row, other)
        assert access is not None and access.url == URL
        resolve = Authorizations().resolver(row, other, lambda: refused.append(len(refused)))
        media = resolve(MediaRef(url="/data/upload/1/a.png"))
        assert (media.url, media.authorization) == (f"{URL}/data/upload/1/a.png", None)
    assert refused == [0, 1]
    assert project_titles([projects.upsert(store, 1), project], other) == {}


def test_a_database_that_is_in_use_is_written_anew_at_the_next_start(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store.is_sqlite:
        pytest.skip("PostgreSQL's files are not written anew")
    monkeypatch.setattr(database_store, "CHECKPOINT_S", 0.1)
    monkeypatch.setattr(database_store, "BUSY_TIMEOUT_S", 0)
    store.close()  # the next connections wait no longer
    put_back(store, "0018")
    projects.upsert(store, 1, label_studio_url=URL, label_config=requests.CONFIG)
    with store.write() as session:
        session.execute(text(f"UPDATE project SET api_key = '{TOKEN}'"))
    with store.read() as reader:
        reader.execute(text("SELECT 1 FROM project")).all()
        store.migrate()
    assert in_files(settings.data_dir, TOKEN)
    store.migrate()
    assert in_files(settings.data_dir, TOKEN) == []
    assert opened(store, settings) == TOKEN


def test_a_database_that_another_process_writes_is_left_and_said_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not store.is_sqlite:
        pytest.skip("PostgreSQL's files are not written anew")
    monkeypatch.setattr(database_store, "BUSY_TIMEOUT_S", 0)
    store.close()  # the next connections wait no longer
    other = sqlite3.connect(store.engine.url.database or "", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    left = erase_deleted(store, ["event"])
    other.close()
    assert left is not None and left.endswith("run the command again")
    assert erase_deleted(store, ["event"]) is None
