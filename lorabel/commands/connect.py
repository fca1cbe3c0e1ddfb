"""`lorabel connect`: registers our backend in a Label Studio project, with everything else that it needs there.

To register the backend is not enough for Label Studio 1.23.2:
- A backend at a private address can be left without webhook: then no events come, and nothing is learned.
- Such a backend can be left unselected as the project's model: then no predictions are shown.
- Events carry basic auth only if the webhook has the header, and our secret only if it has that one
  (`webhook_connection.py`).
- Label Studio asks only a project's first backend for predictions.
- Smart tools ask a backend only if it is registered as interactive.
"""

import base64
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import httpx

from lorabel.commands.proof import prove
from lorabel.commands.webhook_connection import set_webhook
from lorabel.database import projects, webhook_secrets
from lorabel.database.project_keys import LabelStudioId, ProjectKey
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import LabelConfigError, LabelStudioError, LabelStudioRefusedError
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import Backend, ProjectInfo
from lorabel.label_studio.server_version import require_version
from lorabel.problems.binding import bind
from lorabel.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

TITLE = "Lorabel"
BLOCKED = "reserved network address"
WRONG_AUTH = "authentication parameters"
CONNECTED = "CO"
# Label Studio got no answer, or an error, from the backend's /health.
DISCONNECTED = "DI"

ALLOW_BACKENDS = "set ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false in Label Studio's environment"
ALLOW_EVENTS = "set SSRF_PROTECTION_ENABLED=false in Label Studio's environment"
RESTART = "restart it and run `lorabel connect` again"


class Outcome(StrEnum):
    """`OK` is of steps that only check something."""

    OK = "ok"
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True)
class Step:
    """One step of connecting a project.

    Attributes:
        finding: the state after the step; if the step failed, also the remedy.
    """

    name: str
    outcome: Outcome
    finding: str


@dataclass(frozen=True)
class Connection:
    """The result of `connect`. `project_id`: our own id of the project; None if the project was not stored."""

    project: ProjectInfo
    project_id: int | None
    backend_url: str
    steps: tuple[Step, ...]

    @property
    def is_complete(self) -> bool:
        return all(step.outcome is not Outcome.FAILED for step in self.steps)

    @property
    def is_changed(self) -> bool:
        return any(step.outcome is Outcome.CHANGED for step in self.steps)


def default_backend_url(settings: Settings) -> str:
    """The backend's address on this machine, from HOST and PORT."""
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://{host}:{settings.port}"


def basic_auth_header(settings: Settings) -> dict[str, str]:
    """The header that every request to our backend must have; empty if no basic auth is set."""
    if settings.basic_auth is None:
        return {}
    encoded = base64.b64encode(":".join(settings.basic_auth).encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def state_fault(backend: Backend) -> str:
    """What is wrong with a backend that is not CONNECTED."""
    if backend.state == DISCONNECTED:
        return f"Label Studio cannot reach the backend at {backend.url}"
    reason = backend.error or "no reason given"
    return f"Label Studio cannot use the backend at {backend.url} (state {backend.state}: {reason})"


def connect(
    settings: Settings,
    label_studio_url: str,
    api_key: str,
    label_studio_id: LabelStudioId,
    *,
    backend_url: str | None = None,
    title: str = TITLE,
    is_secret_new: bool = False,
    is_anyway: bool = False,
    overlap: timedelta = webhook_secrets.OVERLAP,
    report: Callable[[Step], None] = lambda step: None,
) -> Connection:
    """Connect one project. A second call changes nothing, and completes a connection that is half done.

    If nothing of the label config is served, nothing is changed. If Label Studio cannot use the backend, address
    and token are not stored: an earlier connection of the project stays as it is.

    Args:
        label_studio_id: the project's id in Label Studio.
        backend_url: our address as Label Studio sees it; default: HOST and PORT.
        title: the backend's name in Label Studio.
        is_secret_new: replace the webhook's secret.
        is_anyway: connect the project although nothing of its label config is served.
        overlap: for how long events with the webhook's earlier secret are still accepted.
        report: called with each step when it is done.

    Raises:
        LabelStudioError: Label Studio cannot be reached, refuses the token, has no such project, or refuses the
            backend.
        ConflictError: it cannot be told apart from a project of another Label Studio.
    """
    with LabelStudio(label_studio_url, api_key) as label_studio:
        url = (backend_url or default_backend_url(settings)).rstrip("/")
        connecting = _Connecting(
            settings, label_studio, label_studio_id, url, title, is_secret_new, is_anyway, overlap, report
        )
        with closing(Store.open(settings)) as store:
            store.migrate()
            return connecting.run(store, api_key)


def print_step(step: Step, console: "Console") -> None:
    """Print one step as a line, coloured by its outcome."""
    colour = {Outcome.CHANGED: "yellow", Outcome.FAILED: "red"}.get(step.outcome, "green")
    console.print(f"[{colour}]{step.outcome:>9}[/] {step.name}: {step.finding}", highlight=False)


@dataclass
class _Connecting:
    """The steps of `connect` for one project, in the order of `run`."""

    settings: Settings
    label_studio: LabelStudio
    project_id: LabelStudioId
    backend_url: str
    title: str
    is_secret_new: bool
    is_anyway: bool
    overlap: timedelta
    report: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)

    def run(self, store: Store, api_key: str) -> Connection:
        server, email = require_version(self.label_studio), self.label_studio.email()
        project = self._project()
        finding = f"{server.version} at {self.label_studio.url} as {email}"
        if server.unread:
            finding += f"; its clock cannot be compared with ours, since {server.unread}"
        self._done("Label Studio", Outcome.OK, finding)
        own_id = None
        if self._check_label_config(project):
            key = ProjectKey(self.project_id, project.created_at, url=self.label_studio.url)
            with store.read() as session:
                # Before anything is changed: this raises ConflictError.
                earlier = projects.find(session, key)
            if backend := self._register(_has_smart_tools(project)):
                own_id = self._remember(store, key, earlier, api_key)
                self._set_webhook(own_id)
                self._select_model(backend)
                is_proven, finding = prove(self.settings, store, self.label_studio, project, own_id, backend.id)
                self._done("proof", Outcome.OK if is_proven else Outcome.FAILED, finding)
        return Connection(project, own_id, self.backend_url, tuple(self.steps))

    def _project(self) -> ProjectInfo:
        try:
            return self.label_studio.project(self.project_id)
        except LabelStudioRefusedError as error:
            if error.status_code != 404:
                raise
            raise LabelStudioError(
                f"Label Studio at {self.label_studio.url} has no project {self.project_id} that the token's user "
                "sees; the number stands in the project's address, /projects/N/"
            ) from error

    def _check_label_config(self, project: ProjectInfo) -> bool:
        """Whether the project is to be connected: something of its label config is served, or `is_anyway`."""
        try:
            bound = bind(project.label_config)
        except LabelConfigError as error:
            return self._refuse_label_config(str(error), "correct the label config")
        served = ", ".join(f"{binding.from_name} ({type(binding).__name__})" for binding in bound.bindings)
        unserved = ", ".join(f"{tag.control.name} ({tag.reason})" for tag in bound.unclaimed)
        finding = f"served: {served or 'nothing'}" + (f"; left to people: {unserved}" if unserved else "")
        if not bound.bindings:
            return self._refuse_label_config(finding, "add a control tag such as Choices on an Image")
        self._done("label config", Outcome.OK, finding)
        return True

    def _refuse_label_config(self, finding: str, remedy: str) -> bool:
        """Returns `is_anyway`."""
        if self.is_anyway:
            self._done("label config", Outcome.OK, finding)
        else:
            where = f"in project {self.project_id}, or add --anyway to connect it as it is"
            self._done("label config", Outcome.FAILED, f"{finding}; {remedy} {where}")
        return self.is_anyway

    def _remember(self, store: Store, key: ProjectKey, earlier: Project | None, api_key: str) -> int:
        """Store address and token. Returns our own id of the project.

        Args:
            earlier: the project's row before Label Studio called our backend, or None.
        """
        columns = {"api_key": api_key, "backend_url": self.backend_url, "is_deleted": False}
        own_id = projects.resolve(store, key).id
        stored = projects.upsert(store, own_id, **columns)
        replaced = projects.mark_replaced(store, stored)
        is_new = earlier is None or any(
            getattr(earlier, name) != getattr(stored, name) for name in ("label_studio_url", *columns)
        )
        self._done(
            "access", Outcome.CHANGED if is_new else Outcome.UNCHANGED, _remembered(earlier, stored, replaced)
        )
        return own_id

    def _register(self, is_interactive: bool) -> Backend | None:
        """Add the backend, or mend it. Returns None if Label Studio cannot use it.

        Args:
            is_interactive: whether the label config has smart tools. An interactive backend stays so.
        """
        our_backends = self._our_backends()
        outcome, finding = Outcome.UNCHANGED, f"registered at {self.backend_url}"
        if not our_backends:
            finding = self._add(is_interactive)
            our_backends, outcome = self._our_backends(), Outcome.CHANGED
        backend = our_backends[0]
        user = self.settings.basic_auth[0] if self.settings.basic_auth else None
        is_login_wrong = backend.auth_user != user or (user and backend.state != CONNECTED)
        is_deaf = is_interactive and not backend.is_interactive
        if is_login_wrong or is_deaf:
            columns = {"is_interactive": True} if is_deaf else {}
            self.label_studio.update_backend(backend, self.project_id, self.settings.basic_auth, **columns)
            backend, outcome = self._our_backends()[0], Outcome.CHANGED
            finding += ", its user and password are set anew" if is_login_wrong else ""
            finding += ", smart tools ask it from now on" if is_deaf else ""
        for duplicate in our_backends[1:]:
            self.label_studio.delete_backend(duplicate.id)
            outcome, finding = Outcome.CHANGED, f"{finding}, a duplicate of it (id {duplicate.id}) is removed"
        return backend if self._check_usable(backend, outcome, finding) else None

    def _our_backends(self) -> list[Backend]:
        """The project's backends at our address: more than one if it was added twice."""
        backends = self.label_studio.backends(self.project_id)
        return [backend for backend in backends if backend.url.rstrip("/") == self.backend_url]

    def _add(self, is_interactive: bool) -> str:
        """Add the backend.

        Label Studio can answer 403 although it added the backend: then the backend has no webhook and is not
        selected as the project's model.
        """
        finding = f"added at {self.backend_url}"
        try:
            auth = self.settings.basic_auth
            self.label_studio.add_backend(
                self.project_id, self.backend_url, self.title, auth, is_interactive=is_interactive
            )
        except LabelStudioRefusedError as error:
            if BLOCKED not in error.detail:
                raise LabelStudioError(f"{error}; {self._remedy(error)}") from error
            if not self._our_backends():
                raise LabelStudioError(
                    f"Label Studio refuses backends at private addresses such as {self.backend_url} "
                    f"({error.detail}): {ALLOW_BACKENDS}, {RESTART}"
                ) from error
            finding += ", though Label Studio answered 403 and left it half connected"
        return finding

    def _remedy(self, error: LabelStudioRefusedError) -> str:
        if error.status_code == httpx.codes.FORBIDDEN:
            return "the token's user may not change this project: take a token of somebody who may"
        if WRONG_AUTH in error.detail:
            return "start the backend and connect it with the same BASIC_AUTH_USER and BASIC_AUTH_PASS"
        return (
            f"Label Studio must reach the backend at {self.backend_url}: start it with `lorabel up`, or name its "
            "address as Label Studio sees it with --backend-url"
        )

    def _check_usable(self, backend: Backend, outcome: Outcome, finding: str) -> bool:
        first = self.label_studio.backends(self.project_id)[0]
        if backend.state != CONNECTED:
            outcome = Outcome.FAILED
            finding += (
                f", but {state_fault(backend)}; is `lorabel up` running, and is this its address as Label Studio "
                "sees it (--backend-url)?"
            )
        elif first.id != backend.id:
            outcome = Outcome.FAILED
            finding += (
                f", but {first.url} ({first.title!r}) was there before, and Label Studio asks only a project's "
                "first backend for predictions: remove that backend in the project's Settings, Model"
            )
        self._done("backend", outcome, finding)
        return outcome is not Outcome.FAILED

    def _set_webhook(self, own_id: int) -> None:
        url = f"{self.backend_url}/webhook"
        try:
            is_changed, finding = set_webhook(
                self.settings,
                self.label_studio,
                own_id,
                url,
                basic_auth_header(self.settings),
                is_secret_new=self.is_secret_new,
                overlap=self.overlap,
            )
        except LabelStudioRefusedError as error:
            if BLOCKED not in error.detail:
                raise
            return self._done(
                "webhook",
                Outcome.FAILED,
                f"Label Studio sends no events to {url} ({error.detail}), so nothing "
                f"would be learned: {ALLOW_EVENTS}, {RESTART}",
            )
        return self._done("webhook", Outcome.CHANGED if is_changed else Outcome.UNCHANGED, finding)

    def _select_model(self, backend: Backend) -> None:
        project = self.label_studio.project(self.project_id)
        changes: dict[str, Any] = {}
        findings = []
        if project.model_version != backend.title:
            changes["model_version"] = backend.title
            findings.append(f"the project's model was {project.model_version!r} and is {backend.title!r} now")
        if not project.is_prelabeling:
            changes["show_collab_predictions"] = True
            findings.append('"Use predictions to prelabel tasks" was off and is on now')
        if not changes:
            return self._done("pre-annotations", Outcome.UNCHANGED, f"shown from {backend.title!r}")
        self.label_studio.update_project(self.project_id, **changes)
        return self._done("pre-annotations", Outcome.CHANGED, "; ".join(findings))

    def _done(self, name: str, outcome: Outcome, finding: str) -> None:
        step = Step(name, outcome, finding)
        self.steps.append(step)
        self.report(step)


def _has_smart_tools(project: ProjectInfo) -> bool:
    try:
        return bind(project.label_config).config.has_smart_tools
    except LabelConfigError:
        return False  # connected with `is_anyway`


def _remembered(earlier: Project | None, stored: Project, replaced: Sequence[Project]) -> str:
    """The finding of the step that stores address and token."""
    finding = f"address and token are stored with project {stored.id}"
    if stored.id != stored.label_studio_id:
        finding += (
            f" here, since another project has the number {stored.label_studio_id}; use {stored.id} in commands "
            "and REST"
        )
    if earlier and earlier.label_studio_url not in (None, stored.label_studio_url):
        finding += f"; it was connected to {earlier.label_studio_url} before"
    if replaced:
        ids = ", ".join(str(project.id) for project in replaced)
        finding += f"; this Label Studio was reset since project {ids} was connected, which is kept as deleted"
    return finding
