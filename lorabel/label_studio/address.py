"""Checks an address that a person has typed, and says what to write instead."""

import re

from lorabel.errors import SettingsError
from lorabel.label_studio.access import is_web_address

EXAMPLE = "http://localhost:8080"
# What follows the address of a Label Studio in the address of one of its pages. `/projects/label-studio` may be
# the address of a Label Studio behind a proxy.
PAGE = re.compile(
    r"(?<!/)/(?:projects/(?P<project>\d+)(?=[/?#]|$)|projects(?=/?(?:[?#]|$))"
    r"|user/(?:login|account|signup)(?=[/?#]|$))"
    r"|/?[?#]"
)


def checked_address(text: str, option: str) -> str:
    """The address of a web server without a slash at its end.

    Args:
        option: names the option or setting in the message of the error.

    Raises:
        SettingsError: the text has no scheme, is no address, or is the address of a page.
    """
    address = text.strip().rstrip("/")
    if "://" not in address:
        address = f"http://{address}"
        instead = _without_page(address) if _is_address(address) else EXAMPLE
        raise SettingsError(f"{option} {text!r} has no scheme; write {instead}, or https:// if it uses TLS")
    if not _is_address(address):
        raise SettingsError(f"{option} {text!r} is no address of a web server; write for example {EXAMPLE}")
    if (base := _without_page(address)) != address:
        raise SettingsError(f"{option} {text!r} is the address of a page; write {base}")
    return address


def split_page(text: str) -> tuple[str, int | None]:
    """The address before that of a page in it, such as `http://labels.example.com/projects/7/data`, and the
    number of the page's project; None if it names none. What is no address is left as it is."""
    page = PAGE.search(text.strip())
    if page is None:
        return text.strip(), None
    return text.strip()[: page.start()], int(page["project"]) if page["project"] else None


def _is_address(text: str) -> bool:
    return is_web_address(text) and not re.search(r"\s", text)


def _without_page(address: str) -> str:
    """The address up to the page, with the option for the page's project if there is one."""
    base, project = split_page(address)
    return base if project is None else f"{base} and --project {project}"
