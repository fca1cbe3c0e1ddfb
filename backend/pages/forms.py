"""Protects the forms of the pages: a browser sends the password by itself, whichever site made it send a form.

The token of a form must equal that of a cookie, which other sites can neither read nor, as the cookie is
SameSite=Strict, have sent. A browser that tells where a request comes from must name this site.
"""

import hmac
import secrets

from flask import Response, g, request

from lorabel.errors import ForbiddenFormError

COOKIE = "lorabel_form"
FIELD = "form_token"
TOKEN_BYTES = 32
# Values of Sec-Fetch-Site for what comes from our own pages, or from the person's address bar.
OWN_SITES = frozenset({"same-origin", "none"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def form_token() -> str:
    """The token for the forms of this page; a new one if the browser has none."""
    token: str = g.get("form_token") or request.cookies.get(COOKIE) or secrets.token_urlsafe(TOKEN_BYTES)
    g.form_token = token
    return token


def keep_token(answer: Response) -> None:
    """Give the browser the token of the forms that this answer has, if any."""
    token = g.get("form_token")
    if token is not None and request.cookies.get(COOKIE) != token:
        path = f"{request.script_root}/ui"
        answer.set_cookie(COOKIE, token, path=path, httponly=True, samesite="Strict", secure=request.is_secure)


def refuse_other_sites() -> None:
    """Refuse what a page of another site makes a browser send, to REST as well.

    The browser sends the password by itself. Label Studio and commands send no such header.

    Raises:
        ForbiddenFormError: the browser says that the request comes from another site.
    """
    if request.method not in SAFE_METHODS and request.headers.get("Sec-Fetch-Site", "none") not in OWN_SITES:
        raise ForbiddenFormError("a page of another site sent this; send it from here, or without a browser")


def check_form() -> None:
    """Check that a form was sent from our own page.

    Raises:
        ForbiddenFormError: it was not, or the page is from another session of the browser.
    """
    expected, sent = request.cookies.get(COOKIE, ""), request.form.get(FIELD, "")
    if not expected or not hmac.compare_digest(expected.encode(), sent.encode()):
        raise ForbiddenFormError("this form was not sent from a page of ours; open the page again, and repeat it")
