"""What `lorabel doctor` says: one finding per part, each with what mends it."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx
from sqlalchemy.exc import SQLAlchemyError

from lorabel.errors import LorabelError

PROBE_TIMEOUT_S = 3.0
SAME_AUTH = "start every part with the same BASIC_AUTH_USER and BASIC_AUTH_PASS, then run `lorabel connect` again"


@dataclass(frozen=True)
class Check:
    """`remedy` is the command or setting that mends it; empty if nothing is wrong."""

    name: str
    is_ok: bool
    found: str
    remedy: str = ""


class Wrong(Exception):  # noqa: N818 - a finding, not an error
    """What a check found wrong, and what mends it."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.remedy = remedy


def check(name: str, examine_part: Callable[[], str], remedy: str) -> Check:
    """Never raises: what goes wrong in the examination is its finding."""
    try:
        return Check(name, True, examine_part())
    except Wrong as wrong:
        return Check(name, False, str(wrong), wrong.remedy)
    except (LorabelError, httpx.HTTPError, SQLAlchemyError, OSError) as error:
        return Check(name, False, str(error).splitlines()[0] or type(error).__name__, remedy)
    except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody; the finding shows what it was
        return Check(
            name, False, f"{type(error).__name__}: {error}", "this is a fault of Lorabel: please report it"
        )


def probe(url: str, headers: dict[str, str]) -> int:
    """The status of a GET."""
    return httpx.get(url, headers=headers, timeout=PROBE_TIMEOUT_S, trust_env=False).status_code
