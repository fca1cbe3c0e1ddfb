"""Data URLs as browsers read them (https://fetch.spec.whatwg.org/#data-urls).

data:image/png;base64,iVBORw0KGgo=      data:text/plain,5%25%20more
"""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from lorabel.errors import UnreadableError

SCHEME = "data:"
# What a browser strips from a URL: spaces and control characters at both ends, line ends and tabs anywhere.
ENDS = "".join(map(chr, range(0x21)))
LINE_ENDS = re.compile(r"[\t\n\r]")
BASE64 = re.compile(r";\x20*base64\Z", re.IGNORECASE)
WHITE_SPACE = b" \t\n\r\f"
MOST_SHOWN = 60


def is_data_url(url: str) -> bool:
    """Whether a browser would take this for a data URL."""
    return url[:100].lstrip(ENDS)[: len(SCHEME)].lower() == SCHEME


def decode(url: str) -> bytes:
    """The bytes in a data URL.

    Raises:
        UnreadableError: for good; a browser would not read it either.
    """
    body_url = LINE_ENDS.sub("", url.strip(ENDS)).partition("#")[0][len(SCHEME) :]
    head, comma, encoded = body_url.partition(",")
    if not comma:
        raise UnreadableError(f"data URL {_shown(url)} has no comma", is_permanent=True)
    body = unquote_to_bytes(encoded)
    if not BASE64.search(head.rstrip(" ")):
        return body
    digits = body.translate(None, WHITE_SPACE)
    if len(digits) % 4 == 0:
        digits = digits.removesuffix(b"=").removesuffix(b"=")
    try:
        return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error as error:
        raise UnreadableError(f"data URL {_shown(url)} is broken: {error}", is_permanent=True) from error


def _shown(url: str) -> str:
    return repr(url[:MOST_SHOWN])
