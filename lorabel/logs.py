"""Logging of all processes: lines on standard error, without secrets.

A message may contain what a stranger sent, such as a path. Nothing in it can look like another log line.
"""

import logging
import re
import threading
from typing import Any

from lorabel.errors import cut
from lorabel.redaction import Redactor
from lorabel.redactors import make_redactor
from lorabel.settings import Settings

# Longer messages of ours, and lines of tracebacks, are cut: what they quote can have megabytes.
MOST_CHARACTERS = 1000
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
OURS = ("__main__", "backend", "lorabel", "model_server", "workers")
INDENT = "    "
WITHHELD = "(a message is withheld, since it was logged while another one was masked)"
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class SafeFormatter(logging.Formatter):
    """Puts a message of ours on one line, with its control characters as escapes such as `\\n`.

    Tracebacks, and messages of libraries, keep their lines; all but the first are indented.

    Args:
        redactor: masks personal data.
    """

    def __init__(self, line_format: str, redactor: Redactor) -> None:
        super().__init__(line_format)
        self._redactor = redactor
        self._in_thread = threading.local()

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - named by logging
        """Called by `format`, which then appends the traceback."""
        is_ours = record.name.partition(".")[0] in OURS
        record.message = self._masked(record.message)
        record.message = (
            _escape(cut(record.message, MOST_CHARACTERS))
            if is_ours
            else _indent(record.message).removeprefix(INDENT)
        )
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - named by logging
        """Called by `format`."""
        return _indent(self._masked(super().formatException(ei)))

    def _masked(self, text: str) -> str:
        """The text masked. What masks it may log something itself, which is not masked in turn."""
        if getattr(self._in_thread, "is_masking", False):
            return WITHHELD
        self._in_thread.is_masking = True
        try:
            return self._redactor.masked_message(text)
        finally:
            self._in_thread.is_masking = False


def configure(settings: Settings, handler: logging.Handler | None = None) -> None:
    """Set up logging once per process.

    Our own packages log from LOG_LEVEL up. Libraries log warnings and errors only: open_clip alone would log ten
    lines for each model.

    Args:
        handler: prints the lines; default: a plain handler that prints time, level and logger to standard error.
    """
    line_format = FORMAT if handler is None else "%(message)s"
    handler = handler or logging.StreamHandler()
    handler.setFormatter(SafeFormatter(line_format, make_redactor(settings)))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in OURS:
        logging.getLogger(name).setLevel(settings.log_level.upper())


def _escape(text: str) -> str:
    return CONTROL_CHARACTERS.sub(lambda match: repr(match[0])[1:-1], text)


def _indent(text: str) -> str:
    return "\n".join(INDENT + _escape(cut(line, MOST_CHARACTERS)) for line in text.splitlines())
