"""What a command of `lorabel` works with: the settings, the database, and the terminal that it prints to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from lorabel import logs
from lorabel.database.store import Store
from lorabel.errors import SettingsError
from lorabel.settings import Settings


@dataclass(frozen=True)
class CommandContext:
    """The store's schema is at the newest revision. The console prints to standard output."""

    settings: Settings
    store: Store
    console: Console


@contextmanager
def open_context() -> Iterator[CommandContext]:
    """Read the settings and open the database. The database is closed when the block ends.

    Raises:
        SettingsError: a setting is wrong.
    """
    settings = load_settings()
    store = Store.open(settings)
    try:
        store.migrate()
        yield CommandContext(settings, store, Console())
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


def new_table(*columns: str) -> Table:
    """A table without rows. Long cells are folded, not cut."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


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
