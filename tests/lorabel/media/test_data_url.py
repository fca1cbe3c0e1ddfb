"""The expected bytes are those that Chromium and Node.js give for `fetch(url)`."""

import base64

import pytest

from lorabel.errors import UnreadableError
from lorabel.media.data_url import decode, is_data_url

BYTES = b"\xff\xfe>>??\x00hi!"
ENCODED = base64.b64encode(BYTES).decode()


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{ENCODED}",
        f"data:;base64,{ENCODED.rstrip('=')}",
        f"DATA:image/png;BASE64,{ENCODED}",
        f" \n data:image/png;base64,{ENCODED}\n",
        f"data:image/png;base64, {ENCODED[:4]}\n\t{ENCODED[4:]} ",
        f"data:image/png; base64,{ENCODED}#fragment",
        "data:image/png;base64," + ENCODED.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "data:application/octet-stream,%FF%FE>>??%00hi!",
    ],
)
def test_a_data_url_is_read_as_a_browser_reads_it(url: str) -> None:
    assert is_data_url(url)
    assert decode(url) == BYTES


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("data:,", ""),
        ("data:,a%20b+c%", "a b+c%"),
        ("data:text/plain;charset=utf-8,größer", "größer"),
        ("data:text/plain;base64,aGk", "hi"),
        ("data:text/plain;base64,aGl=", "hi"),
        ("data:text/plain;base64x,aGk=", "aGk="),
    ],
)
def test_a_data_url_may_hold_a_text(url: str, text: str) -> None:
    assert decode(url) == text.encode()


@pytest.mark.parametrize(
    "url",
    ["data:image/png;base64", "data:;base64,a", "data:;base64,@@@", "data:;base64,aG=k", "data:;base64,aGk=="],
)
def test_what_no_browser_reads_is_unreadable_for_good(url: str) -> None:
    with pytest.raises(UnreadableError, match="data URL") as caught:
        decode(url)
    assert caught.value.is_permanent


@pytest.mark.parametrize("url", ["database.png", "/data/upload/1/a.png", "http://data:80/", ""])
def test_an_address_is_no_data_url(url: str) -> None:
    assert not is_data_url(url)
