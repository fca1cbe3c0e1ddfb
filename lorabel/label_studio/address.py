"""Checks an address that a person has typed, and says what to write instead."""

import re

from lorabel.errors import SettingsError
from lorabel.label_studio.access import is_web_address

EXAMPLE = "http://localhost:8080"
# What follows the address of a Label Studio in the address of one of its pages.
PAGE = re.compile(r"/(?:projects(?:/(?P<project>\d+))?|user|tasks|data|organization|api)(?=[/?#]|$)|/?[?#]")


def checked_address(text: str, option: str) -> str:
    """The address of a web server without a slash at its end.

    Args:
        option: names the option or setting in the message of the error.

    Raises:
        SettingsError: the text has no scheme, is no address, or is the address of a page.
    """
    address = text.strip().rstrip("/")
    if "://" not in address:
        wanted = f"http://{address}"
        instead = wanted if is_web_address(wanted) else EXAMPLE
        raise SettingsError(f"{option} {text!r} has no scheme; write {instead}, or https:// if it uses TLS")
    if not is_web_address(address):
        raise SettingsError(f"{option} {text!r} is no address of a web server; write for example {EXAMPLE}")
    page = PAGE.search(address)
    if page is None:
        return address
    project = f" and --project {page['project']}" if page["project"] else ""
    raise SettingsError(f"{option} {text!r} is the address of a page; write {address[: page.start()]}{project}")
