"""The checks of `lorabel doctor` for a connected project, through Label Studio's API. They change nothing."""

import time
from collections.abc import Iterator

import httpx
from prometheus_client.parser import text_string_to_metric_families

from lorabel.commands.checks import RUN, SAME_AUTH, Check, CheckFailed, check, get
from lorabel.commands.connect import (
    ALLOW_EVENTS,
    CONNECTED,
    DISCONNECTED,
    basic_auth_header,
    default_backend_url,
    state_fault,
)
from lorabel.commands.webhook_connection import check_webhook
from lorabel.contracts import media_of
from lorabel.database import rules
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.tables import Project
from lorabel.label_studio.access import LabelStudioAccess, label_studio_access, resolve_media
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.project_identity import check_identity
from lorabel.label_studio.records import Backend
from lorabel.media.fetching import Fetcher
from lorabel.problems.binding import bind
from lorabel.settings import Settings

MOST_CLOCK_SKEW_S = 30.0
REFUSED_EVENTS = "lorabel_refused_events_total"
RULES_REMEDY = "correct the rules, and set them with `lorabel rules"
MEDIA_REMEDY = "open the task in Label Studio; media on another private host needs MEDIA_ALLOWED_HOSTS=<host>"


def connect_again(project: LabelStudioId | str) -> str:
    """How to connect a project. The token is not an option: other users could read it in the list of processes."""
    command = f"lorabel connect --label-studio-url U --project {project}"
    return f"run `{command}`; it asks for the token, or reads LABEL_STUDIO_API_KEY"


class ProjectDoctor:
    """Checks one project. If Label Studio or its token fails, the checks that depend on it are left out."""

    def __init__(self, settings: Settings, project: Project) -> None:
        self.settings = settings
        self.project = project
        self.access = label_studio_access(project, settings)

    def checks(self) -> Iterator[Check]:
        """Run the checks one after the other."""
        remedy = connect_again(self.project.label_studio_id)
        if rules.file_of(self.project) is not None:
            yield check(self._name("rules"), self._rules, f"{RULES_REMEDY} {self.project.id} set FILE`")
        if self.access is None:
            yield Check(self._name("Label Studio"), False, "its address is not known", remedy)
            return
        with LabelStudio(self.access.url, self.access.api_key) as label_studio:
            yield from self._checks(label_studio, self.access, remedy)

    def _checks(self, label_studio: LabelStudio, access: LabelStudioAccess, remedy: str) -> Iterator[Check]:
        address = check(
            self._name("Label Studio"),
            lambda: f"{label_studio.server().version} at {access.url}",
            "set LABEL_STUDIO_URL, or connect again with its address",
        )
        yield address
        if not address.is_ok:
            return
        yield check(self._name("clock"), lambda: _clock(label_studio), "set both clocks by NTP")
        token = check(self._name("token"), lambda: self._token(label_studio), remedy)
        yield token
        if token.is_ok:
            yield check(self._name("connection"), lambda: self._connection(label_studio), remedy)
            yield check(self._name("webhook"), lambda: self._webhook(label_studio, remedy), remedy)
            yield check(self._name("media"), lambda: self._media(label_studio, access), MEDIA_REMEDY)

    def _name(self, part: str) -> str:
        return f"project {self.project.both_ids}: {part}"

    def _backend_url(self) -> str:
        """The backend's address as Label Studio sees it: what `lorabel connect` was told, else HOST and PORT."""
        return self.project.backend_url or default_backend_url(self.settings)

    def _rules(self) -> str:
        """Check that all rules of the project are applied."""
        faults = rules.faults_of(self.project)
        if faults:
            raise CheckFailed("; ".join(faults), f"{RULES_REMEDY} {self.project.id} set FILE`")
        return f"all {len(list(rules.read_of(self.project).in_order))} fit the label config"

    def _token(self, label_studio: LabelStudio) -> str:
        email = label_studio.email()
        title = check_identity(label_studio, self.project).title
        return f"{email} sees project {self.project.both_ids} ({title!r})"

    def _connection(self, label_studio: LabelStudio) -> str:
        """Check that our backend is the project's first one and that its predictions are shown."""
        backends = label_studio.backends(self.project.label_studio_id)
        our_backend = _find_backend(backends, self._backend_url())
        project = label_studio.project(self.project.label_studio_id)
        remedy = f"run `lorabel connect` again for project {self.project.label_studio_id}"
        if our_backend is None:
            urls = ", ".join(backend.url for backend in backends) or "none"
            raise CheckFailed(f"no backend of the project is at {self._backend_url()} (found: {urls})", remedy)
        if backends[0] != our_backend:
            raise CheckFailed(
                f"Label Studio asks {backends[0].url} for predictions, its first backend",
                "remove that backend in the project's Settings, Model",
            )
        if our_backend.state != CONNECTED:
            if our_backend.state == DISCONNECTED:
                remedy = f"{RUN}; if it runs, {remedy}, with --backend-url"
            raise CheckFailed(state_fault(our_backend), remedy)
        if project.model_version != our_backend.title or not project.is_prelabeling:
            raise CheckFailed(
                f"predictions are shown from {project.model_version!r}, prelabeling is "
                f"{'on' if project.is_prelabeling else 'off'}; expected {our_backend.title!r} and on",
                remedy,
            )
        return f"connected to {our_backend.url}, pre-annotations are shown"

    def _webhook(self, label_studio: LabelStudio, remedy: str) -> str:
        our_backend = _find_backend(label_studio.backends(self.project.label_studio_id), self._backend_url())
        base = our_backend.url.rstrip("/") if our_backend else self._backend_url()
        webhooks = [
            hook for hook in label_studio.webhooks(self.project.label_studio_id) if hook.url == f"{base}/webhook"
        ]
        if not webhooks:
            raise CheckFailed(
                f"no webhook to {base}/webhook, so nothing is learned", f"{remedy}; if refused, {ALLOW_EVENTS}"
            )
        secret = check_webhook(self.project, webhooks, basic_auth_header(self.settings), remedy)
        self._check_reached(base, webhooks[0].headers)
        if self.project.secret_hash is None and self.settings.webhook_secret_required:
            raise CheckFailed("the project has no secret, so its events are refused", remedy)
        refused = self._refused_events(base)
        return f"all events go to {base}/webhook, where we answer, {secret}{refused}"

    def _check_reached(self, base: str, headers: dict[str, str]) -> None:
        """Send a request with the webhook's headers.

        The request comes from this machine: Label Studio cannot be made to send an event for a test.
        """
        remedy = f"{RUN}; if only Label Studio sees that address, ignore this"
        status = get(f"{base}/health", headers, remedy).status_code
        if status != httpx.codes.OK:
            raise CheckFailed(f"{base}/health answers {status} to the webhook's headers", SAME_AUTH)

    def _refused_events(self, base: str) -> str:
        """How many events of the project the backend has refused; empty if none. label-studio-ml does not tell."""
        answer = get(f"{base}/metrics", basic_auth_header(self.settings))
        is_ours = answer.headers.get("Content-Type", "").startswith("text/plain")
        refused = sum(
            sample.value
            for family in text_string_to_metric_families(answer.text if is_ours else "")
            for sample in family.samples
            if sample.name == REFUSED_EVENTS and sample.labels["project"] == str(self.project.id)
        )
        if not refused:
            return ""
        return f"; {refused:.0f} events without it were refused since the backend started, see its log"

    def _media(self, label_studio: LabelStudio, access: LabelStudioAccess) -> str:
        """Fetch the first file of the first task, as a prediction does."""
        task = label_studio.first_task(self.project.label_studio_id)
        bindings = bind(label_studio.project(self.project.label_studio_id).label_config).bindings
        if task is None or not bindings:
            return "no task to look at yet" if task is None else "no control tag that we serve"
        media = [media for binding in bindings for media in media_of(binding.model_input(task.data))]
        if not media:
            return f"task {task.task_id} has no file to fetch"
        fetcher = Fetcher(self.settings)
        try:
            file = fetcher.fetch(resolve_media(media[0], access, label_studio.authorization()))
        finally:
            fetcher.close()
        return f"task {task.task_id}: its first file was fetched ({len(file):,} bytes)"


def _clock(label_studio: LabelStudio) -> str:
    server = label_studio.server()
    ahead_s = server.clock_ahead_s
    if ahead_s is None:
        return f"Label Studio's clock is not known: {server.unread}"
    if abs(ahead_s) > MOST_CLOCK_SKEW_S:
        raise CheckFailed(f"Label Studio's clock is {ahead_s:+.0f} s from ours", "set both clocks by NTP")
    return f"Label Studio's clock is {ahead_s:+.0f} s from ours at {time.strftime('%H:%M:%S')}"


def _find_backend(backends: list[Backend], url: str) -> Backend | None:
    return next((backend for backend in backends if backend.url.rstrip("/") == url), None)
