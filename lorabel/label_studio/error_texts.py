"""What others say about an error, made fit for a terminal: no web pages, and no representations of Python objects.

Label Studio quotes what urllib3 raised when it could not reach a backend, and what a backend or a proxy answered:

Max retries exceeded with url: /setup (Caused by NewConnectionError('<urllib3.connection.HTTPConnection object at
0x7f>: Failed to establish a new connection: [Errno 111] Connection refused'))
"""

import re
from typing import Any

from lorabel.errors import LabelStudioError
from lorabel.network import tls_remedy

MOST_CHARACTERS = 1000
WEB_PAGE = "a web page"
PAGE = re.compile(r"<(?:!--|(?:!doctype|html|head|body|\?xml)\b).*", re.IGNORECASE | re.DOTALL)
TAG = re.compile(r"</?(?:h\d|p|pre|br|hr|b|div|span|center|title|table|tr|td)\b[^<>]*>", re.IGNORECASE)
POOL = re.compile(r"HTTPS?ConnectionPool\(host='(?P<host>[^']*)', port=(?P<port>\d+)\): (?P<fault>.*)", re.DOTALL)
ERRNO = re.compile(r"\[Errno -?\d+\] (?P<reason>[\w ,.-]+)")
CERTIFICATE = re.compile(r"certificate verify failed[^('\"]*")


def explanation(body: Any) -> str:
    """Label Studio's explanation in an error's decoded body: `detail`, and the messages about single fields."""
    if not isinstance(body, dict):
        text = plain_text(str(body))
        return f"{WEB_PAGE} instead of JSON; is this Label Studio's address?" if WEB_PAGE in text else text[:300]
    fields = body.get("validation_errors") or {}
    reasons = [f"{name}: {reason}" for name, reason in fields.items()] if isinstance(fields, dict) else [fields]
    return plain_text("; ".join(str(part) for part in (body.get("detail", body), *reasons)))


def unreachable(url: str, error: Exception) -> LabelStudioError:
    """The error to raise when no answer came from Label Studio, with what to do about it."""
    remedy = tls_remedy(error) or "is it running, and is the address right?"
    return LabelStudioError(f"Label Studio at {url} cannot be reached ({type(error).__name__}: {error}); {remedy}")


def shown(text: str) -> str:
    """The text of an answer that was to be JSON, for a message."""
    plain = plain_text(text)
    return plain if plain == WEB_PAGE else repr(plain[:80])


def plain_text(text: str) -> str:
    """The text without HTML and urllib3's wording, on one line, with at most MOST_CHARACTERS characters."""
    text = PAGE.sub(WEB_PAGE, text)
    text = POOL.sub(_connection_fault, text)
    return " ".join(TAG.sub(" ", text).split())[:MOST_CHARACTERS]


def _connection_fault(pool: re.Match[str]) -> str:
    fault = pool["fault"]
    if errno := ERRNO.search(fault):
        reason = errno["reason"].strip()
    elif certificate := CERTIFICATE.search(fault):
        reason = certificate[0].strip()
    elif "timed out" in fault or "Timeout" in fault:
        reason = "no answer in time"
    else:
        reason = "the connection failed"
    return f"{pool['host']}:{pool['port']}: {reason}"
