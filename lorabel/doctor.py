"""`lorabel doctor`: looks at each part and at each connected project, and says what mends what is wrong.

Nothing is changed or left behind. A check never raises: what goes wrong in it is its finding.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from lorabel import projects, versions
from lorabel.connect import ALLOW_EVENTS, BLOCKED, CONNECTED, basic_auth_header, default_backend_url
from lorabel.contracts import Contract, MediaRef
from lorabel.errors import LorabelError, NotFoundError
from lorabel.label_studio import Backend, LabelStudio
from lorabel.media import Fetcher
from lorabel.messages import ModelsResponse
from lorabel.model_client import ModelClient
from lorabel.problems import bind
from lorabel.projects import LabelStudioAccess
from lorabel.queue import Jobs
from lorabel.registry import Registry
from lorabel.settings import Settings
from lorabel.store import Store
from lorabel.tables import Project

MOST_CLOCK_SKEW_S = 30.0
PROBE_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Check:
    """`remedy` is the command or setting that mends it; empty if nothing is wrong."""

    name: str
    is_ok: bool
    found: str
    remedy: str = ""


class Wrong(Exception):  # noqa: N818 - a finding, not an error
    """What a check found wrong, and what mends it."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.remedy = remedy


def examine(settings: Settings, project_id: int | None = None) -> list[Check]:
    """Every check, in the order in which things depend on each other.

    Args:
        project_id: look at this project only; default: at every connected one.
    """
    doctor = _Doctor(settings)
    try:
        return list(doctor.checks(project_id))
    finally:
        doctor.close()


class _Doctor:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store.open(settings)
        self.model_client = ModelClient(settings)
        self.jobs = Jobs(settings)
        self.registry = Registry(settings.adapters_dir)

    def close(self) -> None:
        self.store.close()
        self.model_client.close()
        self.jobs.redis.close()

    def checks(self, project_id: int | None) -> Iterator[Check]:
        yield _check("database", self.database, "run `lorabel up`, or set DATABASE_URL to a database that answers")
        yield _check("redis", self.redis, "run `lorabel up`, or set REDIS_URL to a Redis that answers")
        yield _check("backend", self.backend, "run `lorabel up`")
        yield _check("model server", self.device, "run `lorabel up`, or set MODEL_SERVER_URL")
        yield _check("weights", self.weights, "set MODEL_DUAL_ENCODER to weights that are there")
        yield _check("adapters", self.adapters, "set DATA_DIR to a folder that this user may write")
        yield from self.projects(project_id)

    def database(self) -> str:
        with self.store.read() as session:
            revision = session.scalar(text("SELECT version_num FROM alembic_version"))
        return f"{self.store.engine.url.render_as_string(hide_password=True)} at revision {revision}"

    def redis(self) -> str:
        if not self.jobs.is_reachable():
            raise Wrong(
                f"no answer at {_without_password(self.settings.redis)}",
                "run `lorabel up`, or set REDIS_URL to a Redis that answers",
            )
        return f"answers at {_without_password(self.settings.redis)}"

    def backend(self) -> str:
        url = default_backend_url(self.settings)
        status = _probe(f"{url}/health", basic_auth_header(self.settings))
        if status == httpx.codes.UNAUTHORIZED:
            raise Wrong(f"{url}/health answers 401 to this user and password", _SAME_AUTH)
        if status != httpx.codes.OK:
            raise Wrong(f"{url}/health answers {status}", "see the backend's log")
        return f"answers at {url}"

    def device(self) -> str:
        models = self.model_client.models()
        return f"{models.device} in {models.precision}, batches of up to {models.max_batch}"

    def weights(self) -> str:
        models: ModelsResponse = self.model_client.models()
        if not models.families:
            raise Wrong("no model family is loaded", "see the model server's log, and set MODEL_DUAL_ENCODER")
        return ", ".join(f"{f.name} from {f.source}, {f.parameters / 1e6:.1f}M" for f in models.families)

    def adapters(self) -> str:
        """The folder can be written, and every live adapter is in it."""
        folder = self.registry.root
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        with self.store.read() as session:
            live = [
                name
                for project in session.scalars(select(Project).where(Project.is_deleted.is_(False)))
                for name in versions.live_adapters(session, project).values()
            ]
        for name in live:
            try:
                self.registry.path(name)
            except NotFoundError as error:
                remedy = "put the folder back, or make another version live with `lorabel rollback PROJECT`"
                raise Wrong(f"{name} is live, but {error}", remedy) from error
        return f"{self.registry.root} can be written, {len(live)} live adapters are in it"

    def projects(self, project_id: int | None) -> Iterator[Check]:
        try:
            with self.store.read() as session:
                wanted = select(Project).where(Project.is_deleted.is_(False)).order_by(Project.id)
                found = list(session.scalars(wanted))
        except SQLAlchemyError:
            return  # The database's own check has said so.
        chosen = [project for project in found if project_id in (None, project.id)]
        if not chosen:
            name = "projects" if project_id is None else f"project {project_id}"
            yield Check(
                name, False, "not connected", "lorabel connect --label-studio-url U --api-key K --project N"
            )
        for project in chosen:
            yield from _ProjectDoctor(self.settings, self.store, project).checks()


class _ProjectDoctor:
    def __init__(self, settings: Settings, store: Store, project: Project) -> None:
        self.settings = settings
        self.project = project
        self.access = projects.label_studio_access(project, settings)

    def checks(self) -> Iterator[Check]:
        mend = f"lorabel connect --label-studio-url U --api-key K --project {self.project.id}"
        if self.access is None:
            yield Check(self._name("Label Studio"), False, "its address is not known", mend)
            return
        with LabelStudio(self.access.url, self.access.api_key) as label_studio:
            yield from self._checks(label_studio, self.access, mend)

    def _checks(self, label_studio: LabelStudio, access: LabelStudioAccess, mend: str) -> Iterator[Check]:
        address = _check(
            self._name("Label Studio"),
            lambda: f"{label_studio.server().version} at {access.url}",
            "set LABEL_STUDIO_URL, or connect again with its address",
        )
        yield address
        if not address.is_ok:
            return
        yield _check(self._name("clock"), lambda: _clock(label_studio), "set both clocks by NTP")
        token = _check(self._name("token"), lambda: self._token(label_studio), mend)
        yield token
        if token.is_ok:
            yield _check(self._name("connection"), lambda: self._connection(label_studio), mend)
            yield _check(self._name("webhook"), lambda: self._webhook(label_studio, mend), mend)
            yield _check(self._name("media"), lambda: self._media(label_studio, access), _MEND_MEDIA)

    def _name(self, part: str) -> str:
        return f"project {self.project.id}: {part}"

    def _token(self, label_studio: LabelStudio) -> str:
        email = label_studio.email()
        title = label_studio.project(self.project.id).title
        return f"{email} sees project {self.project.id} ({title!r})"

    def _connection(self, label_studio: LabelStudio) -> str:
        """Our backend is there, the first, and its predictions are the ones that are shown."""
        backends = label_studio.backends(self.project.id)
        ours = _ours(backends, self.settings)
        project = label_studio.project(self.project.id)
        again = f"run `lorabel connect` again for project {self.project.id}"
        if ours is None:
            known = ", ".join(b.url for b in backends) or "none"
            raise Wrong(f"no backend of the project is at our port {self.settings.port} (found: {known})", again)
        if backends[0] != ours:
            raise Wrong(
                f"Label Studio asks {backends[0].url} for predictions, its first backend",
                "remove that one in the project's Settings, Model",
            )
        if ours.state != CONNECTED:
            raise Wrong(f"Label Studio has {ours.url} in state {ours.state}: {ours.error or 'no reason'}", again)
        if project.model_version != ours.title or not project.is_prelabeling:
            raise Wrong(
                f"predictions are shown from {project.model_version!r}, prelabeling is "
                f"{'on' if project.is_prelabeling else 'off'}; expected {ours.title!r} and on",
                again,
            )
        return f"connected to {ours.url}, pre-annotations are shown"

    def _webhook(self, label_studio: LabelStudio, mend: str) -> str:
        ours = _ours(label_studio.backends(self.project.id), self.settings)
        base = ours.url.rstrip("/") if ours else default_backend_url(self.settings)
        hooks = [h for h in label_studio.webhooks(self.project.id) if h.url == f"{base}/webhook"]
        if not hooks:
            raise Wrong(
                f"no webhook to {base}/webhook, so nothing is learned", f"{mend}; if refused, {ALLOW_EVENTS}"
            )
        if not hooks[0].is_right(basic_auth_header(self.settings)):
            raise Wrong(f"the webhook to {base}/webhook is off, partial, or lacks our Authorization header", mend)
        self._check_reached(base, hooks[0].headers)
        return f"all events go to {base}/webhook, where we answer"

    def _check_reached(self, base: str, headers: dict[str, str]) -> None:
        """With the webhook's own headers; from here, since nothing makes Label Studio send an event idly."""
        try:
            status = _probe(f"{base}/health", headers)
        except httpx.HTTPError as error:
            raise Wrong(
                f"{base}/health cannot be reached from here ({type(error).__name__}: {error})",
                "run `lorabel up`; if only Label Studio sees that address, ignore this",
            ) from error
        if status != httpx.codes.OK:
            raise Wrong(f"{base}/health answers {status} to the webhook's headers", _SAME_AUTH)

    def _media(self, label_studio: LabelStudio, access: LabelStudioAccess) -> str:
        task = label_studio.first_task(self.project.id)
        bindings = bind(label_studio.project(self.project.id).label_config).bindings
        if task is None or not bindings:
            return "no task to look at yet" if task is None else "no control tag that we serve"
        authorization = label_studio.authorization()
        fetcher = Fetcher(self.settings)
        try:
            sizes = [
                len(fetcher.fetch(projects.resolve_media(media, access, authorization)))
                for media in _media_of(bindings[0].model_input(task.data))
            ]
        finally:
            fetcher.close()
        return f"task {task.task_id}: {sum(sizes) / 1024:.0f} KiB fetched"


_MEND_MEDIA = "open the task in Label Studio; media on another private host needs MEDIA_ALLOWED_HOSTS=<host>"
_SAME_AUTH = "start every part with the same BASIC_AUTH_USER and BASIC_AUTH_PASS, then run `lorabel connect` again"


def _check(name: str, examine_part: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(name, True, examine_part())
    except Wrong as wrong:
        return Check(name, False, str(wrong), wrong.remedy)
    except (LorabelError, httpx.HTTPError, SQLAlchemyError, OSError) as error:
        if BLOCKED in str(error):
            remedy = ALLOW_EVENTS
        return Check(name, False, str(error).splitlines()[0] or type(error).__name__, remedy)
    except Exception as error:  # noqa: BLE001 - a doctor who faints helps nobody; the finding shows what it was
        return Check(
            name, False, f"{type(error).__name__}: {error}", "this is a fault of Lorabel: please report it"
        )


def _clock(label_studio: LabelStudio) -> str:
    ahead_s = label_studio.server().clock_ahead_s
    if abs(ahead_s) > MOST_CLOCK_SKEW_S:
        raise Wrong(f"Label Studio's clock is {ahead_s:+.0f} s from ours", "set both clocks by NTP")
    return f"Label Studio's clock is {ahead_s:+.0f} s from ours at {time.strftime('%H:%M:%S')}"


def _ours(backends: list[Backend], settings: Settings) -> Backend | None:
    """The one at our own port: its host is ours as Label Studio sees it, which we cannot know."""
    return next((b for b in backends if httpx.URL(b.url).port == settings.port), None)


def _media_of(question: Contract) -> list[MediaRef]:
    return [value for _, value in question if isinstance(value, MediaRef)]


def _probe(url: str, headers: dict[str, str]) -> int:
    return httpx.get(url, headers=headers, timeout=PROBE_TIMEOUT_S, trust_env=False).status_code


def _without_password(url: str) -> str:
    parts = httpx.URL(url)
    return str(parts.copy_with(password="***")) if parts.password else url
