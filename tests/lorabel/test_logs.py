"""Log lines as they are printed, by processes of their own: pytest replaces the handlers of this one."""

import subprocess
import sys

FORGED = "2026-11-26 15:00:00,000 INFO backend.app: forged"
PRELUDE = """
import logging
from lorabel import logs
from lorabel.settings import Settings
logs.configure(Settings())
"""


def printed(code: str) -> list[str]:
    completed = subprocess.run([sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=True)
    return completed.stderr.split("\n")[:-1]


def test_a_message_of_ours_is_one_line_whatever_is_in_it() -> None:
    [line] = printed(f"logging.getLogger('backend.app').info('GET %s', '/\\n{FORGED}\\r\\x1b[31m\\u2028')")
    assert line.endswith(rf"INFO backend.app: GET /\n{FORGED}\r\x1b[31m\u2028")


def test_a_traceback_keeps_its_lines_and_none_of_them_looks_like_a_log_line() -> None:
    first, *rest = printed(
        "try:\n"
        f"    raise ValueError('a value\\n{FORGED}')\n"
        "except ValueError:\n"
        "    logging.getLogger('workers.collect').exception('failed')\n"
    )
    assert first.endswith("ERROR workers.collect: failed")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-1] == f"    {FORGED}"
    assert all(line.startswith("    ") for line in rest)


def test_a_message_of_a_library_keeps_its_lines() -> None:
    first, second = printed(f"logging.getLogger('rq.worker').error('job failed\\n{FORGED}')")
    assert first.endswith("ERROR rq.worker: job failed")
    assert second == f"    {FORGED}"


def test_long_messages_and_tracebacks_are_cut() -> None:
    """What a message quotes can have megabytes."""
    first, second, *_, last = printed(
        "logging.getLogger('backend.app').info('quoted %s', 'x' * 10**6)\n"
        "try:\n"
        "    raise ValueError('y' * 10**6)\n"
        "except ValueError:\n"
        "    logging.getLogger('workers.collect').exception('failed')\n"
    )
    assert first.endswith("xxx...") and len(first) < 1100
    assert second.endswith("failed")
    assert last.endswith("yyy...") and len(last) < 1100
