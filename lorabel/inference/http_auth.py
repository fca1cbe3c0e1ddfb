"""HTTP basic authentication of backend and model server, switched on by BASIC_AUTH_USER and BASIC_AUTH_PASS."""

import hmac
from collections.abc import Collection
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.datastructures import Authorization

from lorabel.settings import Settings


def require_basic_auth(app: Flask, settings: Settings, open_paths: Collection[str]) -> None:
    """Answer 401 to every request without the right user and password, except at `open_paths`."""
    expected = settings.basic_auth
    if expected is None:
        return

    @app.before_request
    def check() -> Response | None:
        if request.path in open_paths or is_authorized(request.headers.get("Authorization"), expected):
            return None
        answer = jsonify(error="user and password are needed: BASIC_AUTH_USER and BASIC_AUTH_PASS are set here")
        answer.status_code = 401
        answer.headers["WWW-Authenticate"] = 'Basic realm="lorabel", charset="UTF-8"'
        return answer


def is_allowed(environ: dict[str, Any], settings: Settings) -> bool:
    """Whether `require_basic_auth` would let a request pass, by its WSGI environment."""
    return settings.basic_auth is None or is_authorized(environ.get("HTTP_AUTHORIZATION"), settings.basic_auth)


def is_authorized(header: str | None, expected: tuple[str, str]) -> bool:
    """Whether an Authorization header has the expected user and password.

    The comparison takes the same time for every wrong user or password of the same length, so that the time tells
    an attacker nothing.
    """
    try:
        credentials = Authorization.from_header(header)
    except ValueError:  # a header that is not ASCII
        return False
    if credentials is None or credentials.type != "basic":
        return False
    user, password = (str(part or "").encode() for part in (credentials.username, credentials.password))
    is_user = hmac.compare_digest(user, expected[0].encode())
    is_password = hmac.compare_digest(password, expected[1].encode())
    return is_user and is_password
