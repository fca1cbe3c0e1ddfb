"""Texts as Label Studio 1.23.2 with requests 2.32 gives them, and as proxies do."""

import pytest

from lorabel.label_studio.error_texts import plain_text

REFUSED = (
    "HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /setup (Caused by "
    "NewConnectionError('<urllib3.connection.HTTPConnection object at 0x7f1c>: Failed to establish a new "
    "connection: [Errno 111] Connection refused'))"
)
UNKNOWN = (
    "HTTPConnectionPool(host='nowhere', port=9090): Max retries exceeded with url: /health (Caused by "
    "NameResolutionError(\"<urllib3.connection.HTTPConnection object at 0x7f1c>: Failed to resolve 'nowhere' "
    '([Errno -2] Name or service not known)"))'
)
SLOW = "HTTPConnectionPool(host='10.0.0.1', port=80): Read timed out. (read timeout=1.0)"
UNTRUSTED = (
    "HTTPSConnectionPool(host='ml.test', port=443): Max retries exceeded with url: /setup (Caused by "
    "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: "
    "self-signed certificate (_ssl.c:1006)')))"
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (REFUSED, "127.0.0.1:1: Connection refused"),
        (f"health check failed: {REFUSED}", "health check failed: 127.0.0.1:1: Connection refused"),
        (UNKNOWN, "nowhere:9090: Name or service not known"),
        (SLOW, "10.0.0.1:80: no answer in time"),
        (UNTRUSTED, "ml.test:443: certificate verify failed: self-signed certificate"),
        ("\n  <!DOCTYPE html>\n<html><title>502</title>", "a web page"),
        ("<!-- of the proxy --><html></html>", "a web page"),
        ("502 from the proxy: <html><body>Bad Gateway</body></html>", "502 from the proxy: a web page"),
        ("<h1>Bad</h1> gateway", "Bad gateway"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("the backend's\ndatabase is locked", "the backend's database is locked"),
    ],
)
def test_neither_web_pages_nor_the_wording_of_urllib3_stay(text: str, plain: str) -> None:
    assert plain_text(text) == plain
