"""The Authorization header for Label Studio, made from any kind of token.

A personal access token is a JWT of type `refresh`. Label Studio 1.23.2 accepts it only at /api/token/refresh/,
where it is exchanged for an access token that is valid for 300 s. A legacy token is 40 hexadecimal digits and is
sent as it is; Label Studio refuses it unless the organization allows legacy tokens.
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
from lorabel.label_studio.error_texts import plain_text
from lorabel.network import client_options

RENEW_AFTER = 0.8
"""Fraction of an access token's lifetime after which it is renewed."""

NEW_TOKEN = "make a new one in Label Studio under Account & Settings, Personal Access Token"


class AccessToken(httpx.Auth):
    """Gives the Authorization header, and exchanges a personal access token when that is due. Thread-safe.

    An httpx client that has this as its `auth` sends the header with every request.

    Args:
        url: Label Studio's address, without a slash at the end.
        api_key: a personal access token, a legacy token, or an access token, which is never renewed.
        timeout_s: seconds for the exchange.
    """

    def __init__(self, url: str, api_key: str, timeout_s: float) -> None:
        self._refresh_url = f"{url}/api/token/refresh/"
        self._key = api_key.strip()
        self._kind = read_claims(self._key).get("token_type", "legacy")
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._access = ""
        self._renew_at = 0.0

    def header(self) -> str:
        """The header's value: `Bearer <access token>` or `Token <legacy token>`.

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
        """Add the header to a request; httpx calls this."""
        request.headers["Authorization"] = self.header()
        yield request

    def _renew(self) -> None:
        sent_at = time.monotonic()
        try:
            answer = httpx.post(
                self._refresh_url,
                json={"refresh": self._key},
                timeout=self._timeout_s,
                **client_options(self._refresh_url),
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioError(
                f"the personal access token cannot be exchanged at {self._refresh_url} "
                f"({type(error).__name__}: {error}); is Label Studio running, is its address right, and is the "
                "authority of its certificate known (SSL_CERT_FILE)?"
            ) from error
        self._access = self._read_access(answer)
        claims = read_claims(self._access)
        lifetime_s = claims.get("exp", 0) - claims.get("iat", 0)
        self._renew_at = sent_at + RENEW_AFTER * max(lifetime_s, 0)

    def _read_access(self, answer: httpx.Response) -> str:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            reason = plain_text(answer.text)[:200]
            raise LabelStudioError(
                f"{self._refresh_url} refuses the personal access token (401, {reason!r}): "
                f"it was revoked, has expired or is another server's; {NEW_TOKEN}"
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
    """The claims of a JWT; empty for any other string. The signature is not verified: only Label Studio can."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
