"""What a command of `lorabel` works with: the settings, the database, and the terminal that it prints to."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from pydantic import ValidationError
from pydantic_core import to_json
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from lorabel import logs
from lorabel.database.store import Store
from lorabel.errors import SettingsError
from lorabel.settings import Settings


@dataclass(frozen=True)
class CommandContext:
    """The store's schema is at the newest revision.

    `console` prints to standard output, or to standard error where that is for JSON.
    """

    settings: Settings
    store: Store
    console: Console


@contextmanager
def open_context(*, is_json: bool = False) -> Iterator[CommandContext]:
    """Read the settings and open the database. The database is closed when the block ends.

    Args:
        is_json: the command prints JSON to standard output, and nothing else.

    Raises:
        SettingsError: a setting is wrong.
    """
    settings = load_settings()
    store = Store.open(settings)
    try:
        store.migrate()
        yield CommandContext(settings, store, Console(stderr=is_json))
    finally:
        store.close()


def load_settings() -> Settings:
    """Read the settings, and send log lines to standard error.

    Raises:
        SettingsError: a setting is wrong. The message names the environment variable, but not its value, which
            can be a password.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError(f"settings: {_describe(error)}") from None
    _check_folder(settings.data_dir.absolute())
    logs.configure(settings, RichHandler(console=Console(stderr=True), show_path=False))
    return settings


def new_table(columns: Sequence[str], rows: Iterable[Sequence[str]], wrapped: Collection[str]) -> Table:
    """A table that fits 80 columns.

    Args:
        wrapped: the columns whose texts may go over several lines. The others are short and keep their width.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in wrapped)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def print_json(value: Any) -> None:
    """Print a value for scripts: times as ISO 8601, and null for numbers that are infinite or not numbers."""
    typer.echo(to_json(value, indent=2, inf_nan_mode="null"))


def _check_folder(folder: Path) -> None:
    """Refuse a DATA_DIR that cannot be a folder, before anything is created in it."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise SettingsError(f"DATA_DIR is {str(folder)!r}, but {str(path)!r} is a file; set it to a folder")


def _describe(error: ValidationError) -> str:
    reasons = []
    for detail in error.errors(include_input=False):
        variable = ".".join(map(str, detail["loc"])).upper()
        reasons.append(f"{variable}: {detail['msg']}" if variable else detail["msg"])
    return "; ".join(reasons)
