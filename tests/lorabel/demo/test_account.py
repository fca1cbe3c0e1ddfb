import stat
from pathlib import Path

import pytest

from lorabel.demo.account import Account, load_or_create, save, with_token
from lorabel.errors import LabelStudioError


def test_an_account_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "account.json"
    account = load_or_create(path)
    save(account, path)
    assert load_or_create(path) == account
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(account.password) >= 16


def test_a_second_account_has_another_password(tmp_path: Path) -> None:
    assert load_or_create(tmp_path / "a").password != load_or_create(tmp_path / "b").password


def test_an_account_with_a_token_needs_no_request_to_label_studio() -> None:
    account = Account("annotator@example.com", "secret", token="token")
    assert with_token(account, "http://127.0.0.1:1") is account


def test_a_label_studio_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(LabelStudioError, match=r"http://127\.0\.0\.1:1"):
        with_token(Account("annotator@example.com", "secret"), "http://127.0.0.1:1")
