"""Model versions: a set of adapters, one per control tag; which one is live, and who may become it.

`p<project>.v0` stands for the base models and needs no row. The live version changes here and nowhere else.
"""

import logging

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database import projects
from lorabel.errors import ConflictError, ModelServerError, NotFoundError
from lorabel.model_client import ModelClient
from lorabel.store import Store
from lorabel.tables import ModelVersion, Project, VersionState, now, version_name

log = logging.getLogger(__name__)


def list_of(session: Session, project_id: int) -> list[ModelVersion]:
    """Newest first, without v0."""
    of_project = select(ModelVersion).where(ModelVersion.project_id == project_id)
    return list(session.scalars(of_project.order_by(ModelVersion.number.desc())))


def get(session: Session, project_id: int, number: int) -> ModelVersion:
    wanted = (ModelVersion.project_id == project_id, ModelVersion.number == number)
    version = session.scalar(select(ModelVersion).where(*wanted))
    if version is None:
        known = ", ".join(v.name for v in list_of(session, project_id)) or "none"
        raise NotFoundError(f"no version {version_name(project_id, number)}; known: {known}")
    return version


def adapters_of(session: Session, project_id: int, number: int) -> dict[str, str]:
    """from_name -> adapter name; empty for v0."""
    return get(session, project_id, number).adapters if number else {}


def temperatures(version: ModelVersion) -> dict[str, float]:
    """from_name -> what its scores are calibrated with (`lorabel.calibration`); where there is none, 1."""
    found = version.metrics.get("calibration", {})
    return {from_name: one["temperature"] for from_name, one in found.items() if one is not None}


def live_adapters(session: Session, project: Project) -> dict[str, str]:
    return adapters_of(session, project.id, project.live_number)


def parse_number(project_id: int, name: str | int) -> int:
    """`3`, `v3` or `p12.v3` -> 3. Raises NotFoundError for another project's version or no version at all."""
    text = str(name).removeprefix(f"p{project_id}.").removeprefix("v")
    if not text.isdigit():
        raise NotFoundError(f"{name!r} names no version of project {project_id}; expected p{project_id}.v<n>")
    return int(text)


def next_number(session: Session, project_id: int) -> int:
    return (
        session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.project_id == project_id)) or 0
    ) + 1


def promote(store: Store, model_client: ModelClient, project_id: int, number: int) -> str:
    """Make a version live and retire the one that was. Its adapters are loaded first, so nobody waits.

    Returns:
        The live version's name.

    Raises:
        NotFoundError: no such version.
    """
    with store.read() as session:
        projects.get(session, project_id)
        adapters = adapters_of(session, project_id, number)
    preload(model_client, adapters)
    with store.write() as session:
        project = session.get_one(Project, project_id, with_for_update=True)
        make_live(session, project, number)
        return project.live_version


def preload(model_client: ModelClient, adapters: dict[str, str]) -> None:
    """Load a version's adapters before it is live, so that no annotator waits for it. Better late than never:
    if the model server cannot be reached, it loads them when they are first asked for."""
    try:
        model_client.preload(sorted(adapters.values()))
    except ModelServerError as error:
        log.warning("%s are not preloaded: %s", sorted(adapters.values()), error)


def make_live(session: Session, project: Project, number: int) -> None:
    """Retire the live version and put `number` in its place (0: the base models)."""
    if project.live_number:
        get(session, project.id, project.live_number).state = VersionState.RETIRED
    if number:
        version = get(session, project.id, number)
        version.state, version.promoted_at = VersionState.LIVE, now()
    project.live_number = number


def rollback(store: Store, model_client: ModelClient, project_id: int) -> str:
    """Make the live version's parent live again.

    Raises:
        ConflictError: the base models are live, there is nothing before them.
    """
    with store.read() as session:
        project = projects.get(session, project_id)
        if project.live_number == 0:
            raise ConflictError(f"project {project_id} runs on the base models: there is nothing to go back to")
        parent = get(session, project_id, project.live_number).parent
    return promote(store, model_client, project_id, parent)
