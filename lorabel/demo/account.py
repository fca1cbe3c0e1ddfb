"""The demo's user of Label Studio: a random password and a personal access token, in a file for us only."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from lorabel.errors import LabelStudioError

EMAIL = "annotator@example.com"


@dataclass(frozen=True)
class Account:
    email: str
    password: str
    token: str | None = None
    project_id: int | None = None


def load_or_create(path: Path) -> Account:
    if path.exists():
        return Account(**json.loads(path.read_text()))
    account = Account(EMAIL, secrets.token_urlsafe(12))
    save(account, path)
    return account


def save(account: Account, path: Path) -> None:
    """Written aside and renamed; nobody else may read it at any moment (mode 0600)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(account), file)
    aside.rename(path)


def with_token(account: Account, url: str) -> Account:
    """The account with a personal access token, made now by logging in if there is none yet."""
    if account.token is not None:
        return account
    try:
        with httpx.Client(base_url=url, timeout=30.0, trust_env=False, headers={"Referer": url}) as browser:
            sign_in(browser, account.email, account.password)
            csrf = {"X-CSRFToken": browser.cookies["csrftoken"]}
            answer = browser.post("/api/token/", json={}, headers=csrf)
    except httpx.HTTPError as error:
        raise LabelStudioError(f"Label Studio at {url} cannot be reached ({error}); is it running?") from error
    if answer.status_code != httpx.codes.CREATED:
        raise LabelStudioError(
            f"{url}/api/token/ answered {answer.status_code} {answer.text[:200]!r}, expected a new token"
        )
    return replace(account, token=answer.json()["token"])


def sign_in(browser: httpx.Client, email: str, password: str) -> None:
    """As the login page does it; the session's cookies stay in `browser`."""
    browser.get("/user/login/")
    answer = browser.post(
        "/user/login/",
        data={
            "email": email,
            "password": password,
            "csrfmiddlewaretoken": browser.cookies.get("csrftoken", ""),
        },
    )
    if answer.status_code != httpx.codes.FOUND:
        raise LabelStudioError(
            f"Label Studio at {browser.base_url} did not let {email} in (status {answer.status_code}); if its "
            "data was deleted or its password changed, delete the folder label-studio in DATA_DIR"
        )
