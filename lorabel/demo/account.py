"""The demo's user in Label Studio: password and access token, in a file that only its owner may read."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from lorabel.database.project_keys import LabelStudioId
from lorabel.errors import LabelStudioError

EMAIL = "annotator@example.com"


@dataclass(frozen=True)
class Account:
    """The demo's user, and the ids of its projects in Label Studio that are there already."""

    email: str
    password: str
    token: str | None = None
    project_id: LabelStudioId | None = None
    scenes_project_id: LabelStudioId | None = None


def load_or_create(path: Path) -> Account:
    """Read the account from a file, or make a new one with a random password and write the file."""
    if path.exists():
        return Account(**json.loads(path.read_text()))
    account = Account(EMAIL, secrets.token_urlsafe(12))
    save(account, path)
    return account


def save(account: Account, path: Path) -> None:
    """Write a new file with mode 0600 and rename it, so that no other user can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new_file = path.with_suffix(".new")
    new_file.unlink(missing_ok=True)
    descriptor = os.open(new_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(account), file)
    new_file.rename(path)


def with_token(account: Account, url: str) -> Account:
    """The account with a personal access token. If it has none, sign in to Label Studio and make one.

    Raises:
        LabelStudioError: Label Studio cannot be reached, or refuses the sign-in or the token.
    """
    if account.token is not None:
        return account
    try:
        with httpx.Client(base_url=url, timeout=30.0, trust_env=False, headers={"Referer": url}) as browser:
            sign_in(browser, account.email, account.password)
            csrf = {"X-CSRFToken": browser.cookies["csrftoken"]}
            response = browser.post("/api/token/", json={}, headers=csrf)
    except httpx.HTTPError as error:
        raise LabelStudioError(f"Label Studio at {url} cannot be reached ({error}); is it running?") from error
    if response.status_code != httpx.codes.CREATED:
        raise LabelStudioError(
            f"{url}/api/token/ answered {response.status_code} {response.text[:200]!r}, expected a new token"
        )
    return replace(account, token=response.json()["token"])


def sign_in(browser: httpx.Client, email: str, password: str) -> None:
    """Send the form of the login page. The session's cookies stay in `browser`.

    Raises:
        LabelStudioError: Label Studio refuses the sign-in.
    """
    browser.get("/user/login/")
    response = browser.post(
        "/user/login/",
        data={
            "email": email,
            "password": password,
            "csrfmiddlewaretoken": browser.cookies.get("csrftoken", ""),
        },
    )
    if response.status_code != httpx.codes.FOUND:
        raise LabelStudioError(
            f"Label Studio at {browser.base_url} did not let {email} in (status {response.status_code}); if its "
            "data was deleted or its password changed, delete the folder label-studio in DATA_DIR"
        )
