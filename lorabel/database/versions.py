"""Model versions: a set of adapters, one per control tag; which one is live, and who may become it.

`p<project>.v0` stands for the base models and needs no row. The live version changes here and nowhere else.
"""

import logging

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from lorabel.database.tables import ModelVersion, Project, VersionState, now, version_name
from lorabel.errors import NotFoundError

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
    """from_name -> what its scores are calibrated with (`workers.calibration`); where there is none, 1."""
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


def make_live(session: Session, project: Project, number: int) -> None:
    """Retire the live version and put `number` in its place (0: the base models)."""
    if project.live_number:
        get(session, project.id, project.live_number).state = VersionState.RETIRED
    if number:
        version = get(session, project.id, number)
        version.state, version.promoted_at = VersionState.LIVE, now()
    project.live_number = number
