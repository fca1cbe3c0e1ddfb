"""`lorabel doctor`: examines each part of Lorabel and each connected project, and names a remedy for each fault.

The doctor changes nothing and leaves nothing behind. A check never raises: an exception becomes its finding.
"""

import tempfile
from collections.abc import Collection, Iterator

import httpx
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from lorabel.commands.checks import RUN, SAME_AUTH, Check, CheckFailed, check, get
from lorabel.commands.connect import basic_auth_header, default_backend_url
from lorabel.commands.model_folder import check_model_folders
from lorabel.commands.part_log import MODEL_SERVER, log_file, newest_message
from lorabel.commands.project_doctor import ProjectDoctor, connect_again
from lorabel.commands.training_check import training_checks
from lorabel.database import stored_tokens, versions
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.database.jobs import Jobs
from lorabel.database.store import Store
from lorabel.database.tables import Project
from lorabel.errors import ModelServerError, NotFoundError, SecretKeyError, SettingsError
from lorabel.inference import unreadable_tasks
from lorabel.inference.messages import ModelsResponse
from lorabel.inference.model_client import ModelClient
from lorabel.redactors import ProcessRecognizers
from lorabel.settings import Settings

INSTALL_PRESIDIO = (
    "run `pip install 'lorabel[presidio]'` where Presidio is missing, and correct what REDACT, REDACT_LANGUAGE or "
    "REDACT_SPACY_MODEL names"
)
NO_MODEL_SERVER = "run `lorabel up`, or set MODEL_SERVER_URL"


def examine(settings: Settings, project_id: int | None = None) -> list[Check]:
    """As `examine_each`, with all checks at once.

    Args:
        project_id: examine this project only; default: every connected project.
    """
    return list(examine_each(settings, None if project_id is None else (project_id,)))


def examine_each(settings: Settings, project_ids: Collection[int] | None) -> Iterator[Check]:
    """Run every check, each when it is asked for. A part comes after the parts that it depends on.

    Args:
        project_ids: examine these projects only, which may be none; None for every connected project.
    """
    doctor = _Doctor(settings)
    try:
        yield from doctor.checks(project_ids)
    finally:
        doctor.close()


class _Doctor:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store.open(settings)
        self.model_client = ModelClient(settings)
        self.jobs = Jobs(settings)
        self.adapter_folders = AdapterFolders(settings.adapters_dir)

    def close(self) -> None:
        self.store.close()
        self.model_client.close()
        self.jobs.redis.close()

    def checks(self, project_ids: Collection[int] | None) -> Iterator[Check]:
        yield check("database", self.database, "run `lorabel up`, or set DATABASE_URL to a database that answers")
        yield check("tokens", self.tokens, "see `lorabel keys`")
        if self.settings.redacted_entities:
            yield check("redaction", self.redaction, INSTALL_PRESIDIO)
        yield check("redis", self.redis, "run `lorabel up`, or set REDIS_URL to a Redis that answers")
        yield check("backend", self.backend, RUN)
        model_server = check("model server", self.device, NO_MODEL_SERVER)
        yield model_server
        if model_server.is_ok:
            yield check("weights", self.weights, NO_MODEL_SERVER)
        yield check("adapters", self.adapters, "set DATA_DIR to a folder that this user may write")
        yield from self.projects(project_ids)

    def database(self) -> str:
        with self.store.read() as session:
            revision = session.scalar(text("SELECT version_num FROM alembic_version"))
        return f"{self.store.engine.url.render_as_string(hide_password=True)} at revision {revision}"

    def tokens(self) -> str:
        """Check that the tokens in the database are encrypted, with keys that are known here."""
        try:
            count = stored_tokens.check(self.store)
            return f"{count} are encrypted, keys: {self.store.keyring.check()}"
        except SecretKeyError as error:
            raise CheckFailed(str(error), "see `lorabel keys`") from error

    def redaction(self) -> str:
        """Check that all that REDACT names can be masked on this machine."""
        try:
            entities = ProcessRecognizers(self.settings).entities
        except SettingsError as error:
            raise CheckFailed(str(error), INSTALL_PRESIDIO) from error
        return f"Presidio looks for {', '.join(entities)}"

    def redis(self) -> str:
        if not self.jobs.is_reachable():
            raise CheckFailed(
                f"no answer at {_without_password(self.settings.redis)}",
                "run `lorabel up`, or set REDIS_URL to a Redis that answers",
            )
        return f"answers at {_without_password(self.settings.redis)}"

    def backend(self) -> str:
        url = default_backend_url(self.settings)
        status = get(f"{url}/health", basic_auth_header(self.settings)).status_code
        if status == httpx.codes.UNAUTHORIZED:
            raise CheckFailed(f"{url}/health answers 401 to this user and password", SAME_AUTH)
        if status != httpx.codes.OK:
            raise CheckFailed(f"{url}/health answers {status}", "see the backend's log")
        return f"answers at {url}"

    def device(self) -> str:
        try:
            models = self.model_client.models()
        except ModelServerError as error:
            remedy = (
                "correct what it says, and run `lorabel up`; `lorabel fetch-model` is for machines without hub"
            )
            try:
                check_model_folders(self.settings)
            except SettingsError as fault:
                raise CheckFailed(f"{error}; {fault}", remedy) from error
            path = log_file(self.settings, MODEL_SERVER)
            message = newest_message(path)
            if message is None:
                raise
            raise CheckFailed(f"{error}; the newest message in {path}: {message}", remedy) from error
        return f"{models.device} in {models.precision}, batches of up to {models.max_batch}"

    def weights(self) -> str:
        models: ModelsResponse = self.model_client.models()
        if not models.families:
            raise CheckFailed(
                "no model family is loaded", "see the model server's log, and set MODEL_DUAL_ENCODER"
            )
        self._check_lazy_families({family.name for family in models.families})
        return ", ".join(
            f"{family.name} from {family.source}, {family.parameters / 1e6:.1f}M" for family in models.families
        )

    def _check_lazy_families(self, loaded: Collection[str]) -> None:
        """Check that no base model is missing that a prediction has needed: not all are loaded at the start."""
        with self.store.read() as session:
            faults = unreadable_tasks.model_faults(session)
        for family, fault in faults.items():
            if family not in loaded:
                raise CheckFailed(fault, "correct what it says; the next prediction tries again after a minute")

    def adapters(self) -> str:
        """Check that the folder can be written and that every live adapter is in it."""
        folder = self.adapter_folders.root
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
        with self.store.read() as session:
            live_adapters = [
                name
                for project in session.scalars(select(Project).where(Project.is_deleted.is_(False)))
                for name in versions.live_adapters(session, project).values()
            ]
        for name in live_adapters:
            try:
                self.adapter_folders.path(name)
            except NotFoundError as error:
                remedy = "put the folder back, or make another version live with `lorabel rollback PROJECT`"
                raise CheckFailed(f"{name} is live, but {error}", remedy) from error
        return f"{self.adapter_folders.root} can be written, {len(live_adapters)} live adapters are in it"

    def projects(self, project_ids: Collection[int] | None) -> Iterator[Check]:
        try:
            with self.store.read() as session:
                query = select(Project).where(Project.is_deleted.is_(False)).order_by(Project.id)
                connected_projects = list(session.scalars(query))
        except SQLAlchemyError:
            return  # The check of the database reports this error.
        known_ids = {project.id for project in connected_projects}
        if project_ids is None:
            missing = [] if known_ids else ["projects"]
        else:
            missing = [f"project {project_id}" for project_id in project_ids if project_id not in known_ids]
        for name in missing:
            yield Check(name, False, "not connected", connect_again("N"))
        for project in connected_projects:
            if project_ids is None or project.id in project_ids:
                yield from ProjectDoctor(self.settings, project).checks()
                yield from training_checks(self.store, project)


def _without_password(url: str) -> str:
    parts = httpx.URL(url)
    return str(parts.copy_with(password="***")) if parts.password else url
