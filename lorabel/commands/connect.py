"""`lorabel connect`: one Label Studio project gets our backend, with everything that it silently needs.

Registering the backend is not enough for Label Studio 1.23.2: a backend at a private address can be left without
webhook (no events, so nothing is learned) and without being the project's model (no predictions); events carry
no basic auth unless the webhook has the header; and only a project's first backend is asked for predictions.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from lorabel.database import projects
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import LabelConfigError, LabelStudioError, LabelStudioRefusedError
from lorabel.label_studio.client import Backend, LabelStudio, ProjectInfo
from lorabel.problems.binding import bind
from lorabel.settings import Settings

TITLE = "Lorabel"
BLOCKED = "reserved network address"
WRONG_AUTH = "authentication parameters"
CONNECTED = "CO"

ALLOW_BACKENDS = "set ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false in Label Studio's environment"
ALLOW_EVENTS = "set SSRF_PROTECTION_ENABLED=false in Label Studio's environment"
AGAIN = "restart it and run `lorabel connect` again"


class Outcome(StrEnum):
    UNCHANGED = "unchanged"
    CHANGED = "changed"
    FAILED = "failed"


@dataclass(frozen=True)
class Step:
    """One thing that connecting sees to. `found` says what is so now; of a failed one also the remedy."""

    name: str
    outcome: Outcome
    found: str


@dataclass(frozen=True)
class Connection:
    project: ProjectInfo
    backend_url: str
    steps: tuple[Step, ...]

    @property
    def is_complete(self) -> bool:
        return all(step.outcome is not Outcome.FAILED for step in self.steps)

    @property
    def is_changed(self) -> bool:
        return any(step.outcome is Outcome.CHANGED for step in self.steps)


def default_backend_url(settings: Settings) -> str:
    host = "127.0.0.1" if settings.host in ("", "0.0.0.0", "::") else settings.host
    return f"http://{host}:{settings.port}"


def basic_auth_header(settings: Settings) -> dict[str, str]:
    """What every request to us must carry; empty without basic auth."""
    if settings.basic_auth is None:
        return {}
    encoded = base64.b64encode(":".join(settings.basic_auth).encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def connect(
    settings: Settings,
    label_studio_url: str,
    api_key: str,
    project_id: int,
    *,
    backend_url: str | None = None,
    title: str = TITLE,
    report: Callable[[Step], None] = lambda step: None,
) -> Connection:
    """Connect one project. Run again, it changes nothing; what is half done it completes.

    Args:
        backend_url: our address as Label Studio sees it; default: HOST and PORT.
        report: called with each step as it is done.

    Raises:
        LabelStudioError: Label Studio, the token or the project is not there, or the backend cannot be added.
    """
    with LabelStudio(label_studio_url, api_key) as label_studio:
        url = (backend_url or default_backend_url(settings)).rstrip("/")
        return _Work(settings, label_studio, project_id, url, title, report).run(api_key)


@dataclass
class _Work:
    settings: Settings
    label_studio: LabelStudio
    project_id: int
    backend_url: str
    title: str
    report: Callable[[Step], None]
    steps: list[Step] = field(default_factory=list)

    def run(self, api_key: str) -> Connection:
        server, email = self.label_studio.server(), self.label_studio.email()
        project = self._project()
        self._done("Label Studio", Outcome.UNCHANGED, f"{server.version} at {self.label_studio.url} as {email}")
        self._check_label_config(project)
        self._remember(api_key)
        backend = self._register()
        self._set_webhook()
        self._select_model(backend)
        self._prove(backend)
        return Connection(project, self.backend_url, tuple(self.steps))

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

    def _check_label_config(self, project: ProjectInfo) -> None:
        try:
            bound = bind(project.label_config)
        except LabelConfigError as error:
            return self._done("label config", Outcome.FAILED, str(error))
        served = ", ".join(f"{b.from_name} ({type(b).__name__})" for b in bound.bindings)
        unserved = ", ".join(f"{one.control.name} ({one.reason})" for one in bound.unclaimed)
        found = f"served: {served or 'nothing'}" + (f"; left to people: {unserved}" if unserved else "")
        if bound.bindings:
            return self._done("label config", Outcome.UNCHANGED, found)
        return self._done(
            "label config",
            Outcome.FAILED,
            f"{found}; add a control tag such as Choices on an Image to project {project.id} ({project.title!r})",
        )

    def _remember(self, api_key: str) -> None:
        store = Store.open(self.settings)
        try:
            store.migrate()
            with store.read() as session:
                known = session.get(Project, self.project_id)
            access = {
                "label_studio_url": self.label_studio.url,
                "api_key": api_key,
                "backend_url": self.backend_url,
            }
            is_new = known is None or any(getattr(known, key) != value for key, value in access.items())
            before = known.label_studio_url if known else None
            projects.remember(store, self.project_id, **access, is_deleted=False)
        finally:
            store.close()
        found = "address and token are stored with the project"
        if before and before != self.label_studio.url:
            found += f"; project {self.project_id} was connected to {before} before"
        self._done("access", Outcome.CHANGED if is_new else Outcome.UNCHANGED, found)

    def _register(self) -> Backend:
        mine = self._mine()
        outcome, found = Outcome.UNCHANGED, f"registered at {self.backend_url}"
        if not mine:
            found = self._add()
            mine, outcome = self._mine(), Outcome.CHANGED
        backend = mine[0]
        user = self.settings.basic_auth[0] if self.settings.basic_auth else None
        if backend.auth_user != user or (user and backend.state != CONNECTED):
            self.label_studio.update_backend(backend, self.project_id, self.settings.basic_auth)
            backend, outcome = self._mine()[0], Outcome.CHANGED
            found += ", its user and password are set anew"
        for double in mine[1:]:
            self.label_studio.delete_backend(double.id)
            outcome, found = Outcome.CHANGED, f"{found}, a double of it (id {double.id}) is removed"
        self._judge(backend, outcome, found)
        return backend

    def _mine(self) -> list[Backend]:
        return [b for b in self.label_studio.backends(self.project_id) if b.url.rstrip("/") == self.backend_url]

    def _add(self) -> str:
        """Label Studio can answer 403 and yet have added the backend, without webhook and unselected."""
        found = f"added at {self.backend_url}"
        try:
            self.label_studio.add_backend(self.project_id, self.backend_url, self.title, self.settings.basic_auth)
        except LabelStudioRefusedError as error:
            if BLOCKED not in error.detail:
                raise LabelStudioError(f"{error}; {self._remedy(error.detail)}") from error
            if not self._mine():
                raise LabelStudioError(
                    f"Label Studio refuses backends at private addresses such as {self.backend_url} "
                    f"({error.detail}): {ALLOW_BACKENDS}, {AGAIN}"
                ) from error
            found += ", though Label Studio answered 403 and left it half connected"
        return found

    def _remedy(self, detail: str) -> str:
        if WRONG_AUTH in detail:
            return "start the backend and connect it with the same BASIC_AUTH_USER and BASIC_AUTH_PASS"
        return (
            f"Label Studio must reach the backend at {self.backend_url}: start it with `lorabel up`, or name its "
            "address as Label Studio sees it with --backend-url"
        )

    def _judge(self, backend: Backend, outcome: Outcome, found: str) -> None:
        first = self.label_studio.backends(self.project_id)[0]
        if backend.state != CONNECTED:
            reason = backend.error or "no reason given"
            outcome, found = (
                Outcome.FAILED,
                (
                    f"{found}, but Label Studio cannot use it (state {backend.state}: {reason}); is `lorabel up` "
                    f"running, and does Label Studio reach {self.backend_url}?"
                ),
            )
        elif first.id != backend.id:
            outcome, found = (
                Outcome.FAILED,
                (
                    f"{found}, but {first.url} ({first.title!r}) was there before, and Label Studio asks only a "
                    "project's first backend for predictions: remove that one in the project's Settings, Model"
                ),
            )
        self._done("backend", outcome, found)

    def _set_webhook(self) -> None:
        url = f"{self.backend_url}/webhook"
        headers = basic_auth_header(self.settings)
        with_header = " with our Authorization header" if headers else ""
        hook = next((h for h in self.label_studio.webhooks(self.project_id) if h.url == url), None)
        try:
            if hook is None:
                self.label_studio.add_webhook(self.project_id, url, headers)
                return self._done("webhook", Outcome.CHANGED, f"made for all actions{with_header}: {url}")
            if hook.is_right(headers):
                return self._done("webhook", Outcome.UNCHANGED, f"sends all actions{with_header}: {url}")
            self.label_studio.repair_webhook(hook, headers)
            return self._done("webhook", Outcome.CHANGED, f"set to all actions{with_header}: {url}")
        except LabelStudioRefusedError as error:
            if BLOCKED not in error.detail:
                raise
            return self._done(
                "webhook",
                Outcome.FAILED,
                f"Label Studio sends no events to {url} ({error.detail}), so nothing "
                f"would be learned: {ALLOW_EVENTS}, {AGAIN}",
            )

    def _select_model(self, backend: Backend) -> None:
        project = self.label_studio.project(self.project_id)
        changes: dict[str, Any] = {}
        found = []
        if project.model_version != backend.title:
            changes["model_version"] = backend.title
            found.append(f"the project's model was {project.model_version!r} and is {backend.title!r} now")
        if not project.is_prelabeling:
            changes["show_collab_predictions"] = True
            found.append('"Use predictions to prelabel tasks" was off and is on now')
        if not changes:
            return self._done("pre-annotations", Outcome.UNCHANGED, f"shown from {backend.title!r}")
        self.label_studio.update_project(self.project_id, **changes)
        return self._done("pre-annotations", Outcome.CHANGED, "; ".join(found))

    def _prove(self, backend: Backend) -> None:
        if self.label_studio.first_task(self.project_id) is None:
            return self._done("proof", Outcome.UNCHANGED, "the project has no task yet, so none was predicted")
        try:
            answer = self.label_studio.test_backend(backend.id)
        except LabelStudioError as error:
            return self._done(
                "proof", Outcome.FAILED, f"no prediction came back ({error}); `lorabel doctor` looks at each part"
            )
        outcome, found = _read_proof(answer)
        return self._done("proof", outcome, found)

    def _done(self, name: str, outcome: Outcome, found: str) -> None:
        step = Step(name, outcome, found)
        self.steps.append(step)
        self.report(step)


def _read_proof(answer: Any) -> tuple[Outcome, str]:
    """The answer of Label Studio's test request: `{"task": {...}, "response": [<prediction>], ...}`."""
    task_id = (answer.get("task") or {}).get("id")
    predictions = answer.get("response") or []
    prediction = predictions[0] if len(predictions) == 1 and isinstance(predictions[0], dict) else {}
    regions = prediction.get("result")
    if regions == [] and prediction.get("score"):
        # Where any number of labels is allowed, none of them is an answer too; an unread task has score 0.
        return Outcome.UNCHANGED, f"task {task_id} was predicted to show none of the labels"
    if not regions:
        return Outcome.FAILED, (
            f"task {task_id} was asked for, and {predictions!r:.200} came back: its media could not be read, or "
            "the model is not ready; `lorabel doctor` looks at each part"
        )
    values = ", ".join(str(region.get("value")) for region in regions)
    return Outcome.UNCHANGED, (
        f"task {task_id} was predicted as {values} with score {prediction.get('score'):.2f} "
        f"by {prediction.get('model_version')}"
    )
