"""What goes into the Authorization header for Label Studio.

A personal access token is a JWT of type `refresh`; Label Studio 1.23.2 takes it nowhere but at
/api/token/refresh/, which gives an access token for 300 s. A legacy token is 40 hexadecimal digits and is sent
as it is; Label Studio refuses it unless the organization allows legacy tokens.
"""

import base64
import binascii
import json
import threading
import time
from collections.abc import Generator
from typing import Any

import httpx

from lorabel.errors import LabelStudioError

RENEW_AFTER = 0.8
"""Share of an access token's life after which it is renewed."""

NEW_TOKEN = "make a new one in Label Studio under Account & Settings, Personal Access Token"


class AccessToken(httpx.Auth):
    """Thread-safe. As `httpx.Auth` it signs the requests of a client; `header` is for everybody else."""

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self._refresh_url = f"{url}/api/token/refresh/"
        self._key = api_key.strip()
        self._kind = read_claims(self._key).get("token_type", "legacy")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._access = ""
        self._renew_at = 0.0

    def header(self) -> str:
        """`Bearer <access token>` or `Token <legacy token>`.

        Raises:
            LabelStudioError: Label Studio cannot be reached, or refuses the personal access token.
        """
        if self._kind == "legacy":
            return f"Token {self._key}"
        if self._kind == "access":
            return f"Bearer {self._key}"
        with self._lock:
            if time.monotonic() >= self._renew_at:
                self._renew()
            return f"Bearer {self._access}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.headers["Authorization"] = self.header()
        yield request

    def _renew(self) -> None:
        asked_at = time.monotonic()
        try:
            answer = httpx.post(
                self._refresh_url, json={"refresh": self._key}, timeout=self._timeout_s, trust_env=False
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioError(
                f"the personal access token cannot be exchanged at {self._refresh_url} "
                f"({type(error).__name__}: {error}); is Label Studio running, and is its address right?"
            ) from error
        self._access = self._read_access(answer)
        claims = read_claims(self._access)
        life_s = claims.get("exp", 0) - claims.get("iat", 0)
        self._renew_at = asked_at + RENEW_AFTER * max(life_s, 0)

    def _read_access(self, answer: httpx.Response) -> str:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise LabelStudioError(
                f"{self._refresh_url} refuses the personal access token "
                f"(401, {answer.text[:200]!r}): it was revoked, has expired or is another server's; {NEW_TOKEN}"
            )
        try:
            access = answer.json()["access"] if answer.is_success else None
        except (ValueError, KeyError, TypeError):
            access = None
        if not isinstance(access, str):
            raise LabelStudioError(
                f"{self._refresh_url} answered {answer.status_code} without an access token; "
                "is there a Label Studio 1.18 or newer at this address?"
            )
        return access


def read_claims(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified (only Label Studio can verify them); empty for any other string."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
