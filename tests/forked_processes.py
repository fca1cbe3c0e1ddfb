"""Tests in several processes that share what was imported: `pytest --processes N`.

The session collects the tests once and then forks. Each process takes a group of tests, and another group when it
has run the first. Its reports are logged by the first process as if that process had run the tests. The processes
of pytest-xdist each import and collect everything again, which takes 15 s of CPU in each of them.

Warnings of tests are not shown, since they are errors here.
"""

import os
import signal
import struct
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NoReturn

import pytest

# Number of a forked process, from 0; absent in the first process.
PROCESS_NUMBER = pytest.StashKey[int]()
# `(nodeid) -> name of its group`, whose tests run one after the other in the same process. By default its file.
GROUP_OF = pytest.StashKey[Callable[[str], str]]()
GROUP_NUMBER = struct.Struct("i")


@dataclass
class Process:
    """A process that runs tests, as the first process sees it.

    Args:
        connection: where its messages come from: the index of a test that it starts, all reports of that test, or
            an error of pytest itself.
        running: the index of the test that it runs now; None between tests.
    """

    pid: int
    connection: Connection
    running: int | None = None
    error: str = ""


@dataclass(eq=False)  # plugins must be hashable
class Sender:
    """The plugin of a forked process that sends the reports of each test when the test has ended."""

    config: pytest.Config
    connection: Connection
    reports: list[Any] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        hook = self.config.hook
        self.reports.append(hook.pytest_report_to_serializable(config=self.config, report=report))

    def pytest_runtest_logfinish(self) -> None:
        self.connection.send(self.reports)
        self.reports.clear()


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "run the tests in N forked processes (default: in this process)"
    parser.addoption("--processes", type=int, default=0, metavar="N", help=text)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run all tests in forked processes; without --processes leave it to pytest."""
    options = session.config.option
    groups = _groups(session)
    if not options.processes or not groups or options.collectonly or session.testsfailed:
        return None
    queue = _queue(len(groups))
    processes = [_fork(session, number, groups, queue) for number in range(min(options.processes, len(groups)))]
    os.close(queue)
    ended: set[int] = set()
    try:
        for index in _log_reports(session, processes):
            ended.add(index)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    except BaseException:
        for process in processes:
            os.kill(process.pid, signal.SIGINT)
        raise
    finally:
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1]) for process in processes]
    _fail_what_did_not_end(session, set(range(len(session.items))) - ended, processes, statuses)
    return True


def _groups(session: pytest.Session) -> list[list[int]]:
    """Indices of the tests by group, in the order of each group's first test."""
    group_of = session.config.stash.get(GROUP_OF, lambda nodeid: nodeid.partition("::")[0])
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(session.items):
        groups.setdefault(group_of(item.nodeid), []).append(index)
    return list(groups.values())


def _queue(count: int) -> int:
    """The reading end of a pipe with the numbers up to `count`. To take one is to read GROUP_NUMBER.size bytes."""
    reading, writing = os.pipe()
    os.write(writing, b"".join(map(GROUP_NUMBER.pack, range(count))))
    os.close(writing)
    return reading


def _take(groups: list[list[int]], queue: int) -> list[int]:
    number = os.read(queue, GROUP_NUMBER.size)
    return list(groups[GROUP_NUMBER.unpack(number)[0]]) if number else []


def _fork(session: pytest.Session, number: int, groups: list[list[int]], queue: int) -> Process:
    receiving, sending = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        _run_groups(session, number, groups, queue, sending)
    sending.close()
    return Process(pid, receiving)


def _run_groups(
    session: pytest.Session, number: int, groups: list[list[int]], queue: int, connection: Connection
) -> NoReturn:
    """Run groups until the queue is empty, and end the process."""
    config, status = session.config, 1
    config.stash[PROCESS_NUMBER] = number
    try:
        # All processes share the file into which the first one captures what is printed.
        capture: Any = config.pluginmanager.get_plugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        config.pluginmanager.unregister(name="terminalreporter")
        config.pluginmanager.register(Sender(config, connection))
        indices = _take(groups, queue)
        while indices:
            index = indices.pop(0)
            # The next test decides which fixtures live on, so its group is taken before this one ends.
            indices = indices or _take(groups, queue)
            next_item = session.items[indices[0]] if indices else None
            connection.send(index)
            config.hook.pytest_runtest_protocol(item=session.items[index], nextitem=next_item)
        status = 0
    except KeyboardInterrupt:
        session._setupstate.teardown_exact(None)
    except BaseException:  # noqa: BLE001 - the first process reports it
        connection.send(traceback.format_exc())
    finally:
        os._exit(status)  # to free all modules takes seconds


def _log_reports(session: pytest.Session, processes: list[Process]) -> Iterable[int]:
    """Log the reports of each test that ends, and yield the test's index, until all processes have ended."""
    by_connection = {process.connection: process for process in processes}
    while by_connection:
        for connection in wait(list(by_connection)):
            process = by_connection[connection]
            try:
                message = process.connection.recv()
            except EOFError:
                by_connection.pop(connection).connection.close()
                continue
            if isinstance(message, int):
                process.running = message
                continue
            if isinstance(message, str):
                process.error = message
                continue
            assert process.running is not None
            item = session.items[process.running]
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for data in message:
                report = session.config.hook.pytest_report_from_serializable(config=session.config, data=data)
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            yield process.running
            process.running = None


def _fail_what_did_not_end(
    session: pytest.Session, indices: Iterable[int], processes: list[Process], statuses: list[int]
) -> None:
    ends = [
        f"a process ended with status {status}"
        + ("" if process.running is None else f" in {session.items[process.running].nodeid}")
        + f" {process.error}"
        for process, status in zip(processes, statuses, strict=True)
        if status
    ]
    for index in sorted(indices):
        item = session.items[index]
        reason = f"did not end: {'; '.join(ends)}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", reason, "call")
        item.ihook.pytest_runtest_logreport(report=report)
