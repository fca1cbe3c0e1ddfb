"""A check of `lorabel doctor`: the examination of one part, its finding, and a remedy if there is a fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from lorabel.errors import LorabelError
from lorabel.network import client_options

if TYPE_CHECKING:
    from rich.console import Console

PROBE_TIMEOUT_S = 3.0
RUN = "run `lorabel up`"
SAME_AUTH = "start every part with the same BASIC_AUTH_USER and BASIC_AUTH_PASS, then run `lorabel connect` again"


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: the part that was examined.
        finding: what the check saw.
        remedy: the command or setting that repairs the part; empty if `is_ok`.
    """

    name: str
    is_ok: bool
    finding: str
    remedy: str = ""


class CheckFailed(Exception):  # noqa: N818 - a finding, not an error
    """Raised inside a check when the part is not in order. The message is the finding."""

    def __init__(self, finding: str, remedy: str) -> None:
        super().__init__(finding)
        self.remedy = remedy


def check(name: str, examine_part: Callable[[], str], remedy: str) -> Check:
    """Run one check. Never raises: an exception becomes the finding.

    Args:
        examine_part: returns the finding if the part is in order; raises otherwise.
        remedy: of any exception except `CheckFailed`, which has its own.
    """
    try:
        return Check(name, True, examine_part())
    except CheckFailed as failure:
        return Check(name, False, str(failure), failure.remedy)
    except (LorabelError, httpx.HTTPError, SQLAlchemyError, OSError) as error:
        return Check(name, False, str(error).splitlines()[0] or type(error).__name__, remedy)
    except Exception as error:  # noqa: BLE001 - the other checks must still run; the finding names the exception
        return Check(
            name, False, f"{type(error).__name__}: {error}", "this is a fault of Lorabel: please report it"
        )


def get(url: str, headers: dict[str, str], remedy: str = RUN) -> httpx.Response:
    """The answer to a GET request.

    Raises:
        CheckFailed: there is no answer.
    """
    try:
        return httpx.get(url, headers=headers, timeout=PROBE_TIMEOUT_S, **client_options(url))
    except httpx.HTTPError as error:
        raise CheckFailed(
            f"{url} cannot be reached from here ({type(error).__name__}: {error})", remedy
        ) from error


def print_check(check: Check, console: "Console") -> None:
    """Print the finding, and the remedy if there is one."""
    mark = "[green]ok[/green]   " if check.is_ok else "[red]wrong[/red]"
    console.print(f"{mark} {escape(check.name)}: {escape(check.finding)}", highlight=False)
    if check.remedy:
        console.print(f"      {check.remedy}", highlight=False, markup=False)
