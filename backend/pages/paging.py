"""Pages of long lists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flask import request, url_for

from backend.project_routes import read_number

T = TypeVar("T")
PER_PAGE = 25
LAST_PAGE = 100_000


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows of a list. `number`: from 1; `name`: of the URL's field with it."""

    rows: Sequence[T]
    number: int
    has_more: bool
    name: str


def read_page(name: str, read: Callable[[int, int], Sequence[T]]) -> Page[T]:
    """The page that the URL's field `name` asks for.

    Args:
        read: offset and limit -> rows.

    Raises:
        BadRequestError: the field is no number.
    """
    number = max(1, read_number(name, 1, LAST_PAGE))
    rows = read((number - 1) * PER_PAGE, PER_PAGE + 1)
    return Page(rows[:PER_PAGE], number, len(rows) > PER_PAGE, name)


def page_url(name: str, number: int) -> str:
    """The address of this page with another page of its list `name`."""
    # Names that begin with an underscore, and this one, mean something else to `url_for`.
    given = {key: value for key, value in request.args.items() if key != "endpoint" and not key.startswith("_")}
    return url_for(str(request.endpoint), **{**given, **(request.view_args or {}), name: number})
