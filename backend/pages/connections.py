"""Projects that are being connected from the page: how far each is, kept in DATA_DIR until it is read no more.

Each is a file, so that every process of the backend can show it. The token is in it, encrypted, until the
connecting begins, and then in the memory of the process that connects.
"""

import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from lorabel.database import connecting_files, projects
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import now
from lorabel.errors import ConflictError, LorabelError, NotFoundError
from lorabel.private_folders import make_private
from lorabel.settings import Settings

if TYPE_CHECKING:
    from lorabel.commands.connect import Step

log = logging.getLogger(__name__)

NAME = re.compile(r"[\w-]{16,64}", re.ASCII)
NAME_BYTES = 16
MOST_AT_ONCE = 2
MOST_PROJECTS = 100
CLOSE_TIMEOUT_S = 5.0
SILENT_FOR = timedelta(seconds=connecting_files.SILENT_FOR_S)


class Finding(BaseModel):
    """A step of connecting, or a check of the doctor. `outcome`: `ok`, `unchanged`, `changed` or `failed`."""

    name: str
    outcome: str
    finding: str
    remedy: str = ""


class ConnectingProject(BaseModel):
    """A project that was chosen.

    Attributes:
        project_id: our own id of it, once it is connected.
        fault: why it could not be connected, where no step says it.
        is_done: whether nothing more is done about it, connected or not.
    """

    label_studio_id: int
    title: str
    project_id: int | None = None
    steps: list[Finding] = []
    fault: str = ""
    is_done: bool = False

    @property
    def is_connected(self) -> bool:
        """Whether each step was right."""
        return self.is_done and not self.fault and all(step.outcome != "failed" for step in self.steps)


class Connecting(BaseModel):
    """What was typed, which projects were chosen, and what was found so far.

    Attributes:
        backend_url: our address as Label Studio sees it.
        token: encrypted; empty from when the connecting begins.
        suggested: a project in Label Studio that the address named.
        is_anyway: connect projects although nothing of their label config is served.
        projects: none before they were chosen.
        checks: of the doctor.
    """

    name: str
    url: str
    backend_url: str
    token: str
    suggested: int | None = None
    is_anyway: bool = False
    projects: list[ConnectingProject] = []
    checks: list[Finding] = []
    is_ended: bool = False
    changed_at: datetime

    @property
    def is_begun(self) -> bool:
        """Whether projects were chosen."""
        return bool(self.projects)

    @property
    def is_interrupted(self) -> bool:
        """Whether the process that connected has ended before everything was done."""
        return self.is_begun and not self.is_ended and now() - self.changed_at > SILENT_FOR


class Connections:
    """The projects that are being connected. Thread-safe.

    Args:
        on_end: called when something was connected, or could not be.
    """

    def __init__(self, settings: Settings, store: Store, on_end: Callable[[], None]) -> None:
        self._settings, self._store, self._on_end = settings, store, on_end
        self._folder = connecting_files.folder_of(settings)
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._threads: set[threading.Thread] = set()

    def add(self, url: str, token: str, backend_url: str, suggested: int | None) -> Connecting:
        """Keep what was typed, for an hour at most.

        Raises:
            SecretKeyError: the token cannot be encrypted.
        """
        connecting_files.remove_old(self._settings)
        with self._store.read() as session:
            sealed = projects.seal_token(self._store, session, token)
        connecting = Connecting(
            name=secrets.token_urlsafe(NAME_BYTES),
            url=url,
            backend_url=backend_url,
            token=sealed,
            suggested=suggested,
            changed_at=now(),
        )
        self._write(connecting)
        return connecting

    def read(self, name: str) -> Connecting:
        """What is known now.

        Raises:
            NotFoundError: there is no such thing, or not any more.
        """
        connecting_files.remove_old(self._settings)
        if NAME.fullmatch(name):
            with suppress(FileNotFoundError):
                return Connecting.model_validate_json(self._path(name).read_bytes())
        raise NotFoundError("this was forgotten after an hour, or never begun; begin anew with Connect")

    def token_of(self, connecting: Connecting) -> str:
        """The token, decrypted.

        Raises:
            SecretKeyError: it was encrypted with another key.
        """
        return self._store.keyring.open(connecting.token)

    def begin(self, connecting: Connecting, chosen: Sequence[ConnectingProject], *, is_anyway: bool) -> None:
        """Connect projects in the background. Does nothing if somebody has begun already.

        Raises:
            ConflictError: as many others are being connected as can be at a time.
            SecretKeyError: the token was encrypted with another key.
        """
        token = self.token_of(connecting)
        if not self._slots.acquire(blocking=False):
            raise ConflictError("others are being connected now; try again in a minute")
        with ExitStack() as on_failure:
            on_failure.callback(self._slots.release)
            mark = self._path(f"{connecting.name}{connecting_files.BEGUN}")
            try:
                mark.touch(mode=0o600, exist_ok=False)
            except FileExistsError:
                return
            on_failure.callback(mark.unlink, missing_ok=True)
            begun = connecting.model_copy(update={"token": "", "projects": list(chosen), "is_anyway": is_anyway})
            self._write(begun)
            thread = threading.Thread(target=self._run, args=(begun, token), name="connecting", daemon=True)
            self._threads.add(thread)
            on_failure.callback(self._threads.discard, thread)
            thread.start()
            on_failure.pop_all()  # from here on the thread gives the slot back

    def close(self) -> None:
        """Wait for what is being connected, at most CLOSE_TIMEOUT_S."""
        for thread in list(self._threads):
            thread.join(CLOSE_TIMEOUT_S)

    def _run(self, connecting: Connecting, token: str) -> None:
        try:
            for project in connecting.projects:
                self._connect(connecting, project, token)
                project.is_done = True
                self._write(connecting)
            self._examine(connecting)
        except Exception:
            log.exception("projects could not be connected from the page")
        finally:
            connecting.is_ended = True
            try:
                self._write(connecting)
            finally:
                self._slots.release()
                self._threads.discard(threading.current_thread())
                self._on_end()

    def _connect(self, connecting: Connecting, project: ConnectingProject, token: str) -> None:
        """Connect one project as the command does."""
        # Imported here: the backend starts without what commands need.
        from lorabel.commands.connect import connect

        def report(step: "Step") -> None:
            project.steps.append(Finding(name=step.name, outcome=step.outcome, finding=step.finding))
            self._write(connecting)

        try:
            connection = connect(
                self._settings,
                connecting.url,
                token,
                LabelStudioId(project.label_studio_id),
                backend_url=connecting.backend_url,
                is_anyway=connecting.is_anyway,
                report=report,
            )
        except LorabelError as error:
            project.fault = str(error)
        except Exception as error:
            log.exception("project %d at %s cannot be connected", project.label_studio_id, connecting.url)
            project.fault = f"our fault: {type(error).__name__}; the log has more"
        else:
            project.project_id = connection.project_id

    def _examine(self, connecting: Connecting) -> None:
        """Have the doctor look at each part, and at the projects that were connected."""
        from lorabel.commands.doctor import examine_each

        connected = [project.project_id for project in connecting.projects if project.project_id is not None]
        for check in examine_each(self._settings, connected):
            outcome = "ok" if check.is_ok else "failed"
            connecting.checks.append(
                Finding(name=check.name, outcome=outcome, finding=check.finding, remedy=check.remedy)
            )
            self._write(connecting)

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _write(self, connecting: Connecting) -> None:
        """Replace the file, so that readers see all of it or what was before."""
        connecting.changed_at = now()
        make_private(self._folder)
        path = self._path(connecting.name)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(connecting.model_dump_json())
        temporary.replace(path)
