"""Rows of the fitted heads that answer, and which projects need theirs fitted anew.

A project's heads are a function of its annotations and its label config. `Project.annotation_revision` counts the
changes of annotations, `Project.head_revision` says up to which of them the heads were fitted.
"""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, or_, select
from sqlalchemy.orm import Session, undefer
from sqlalchemy.orm.interfaces import ORMOption

from lorabel.database import versions
from lorabel.database.tables import Annotation, ModelVersion, Project, ProjectHead, now
from lorabel.errors import LabelConfigError
from lorabel.feature_contracts import HEADED
from lorabel.media.fetching import digest
from lorabel.problems.binding import bind

VERSION_HEADS = "heads"
"""Key of `ModelVersion.metrics`: by control tag, what is known of the head that is stored with the version."""

# `Project.head_revision` if features were missing when the heads were fitted, so that they are fitted again.
INCOMPLETE = -1
DUE_PER_QUERY = 32


def count_change(project: Project) -> None:
    """Note that annotations were changed, in the same transaction. The caller has locked the project's row."""
    project.annotation_revision += 1


def due(session: Session, without: Collection[int] = ()) -> Iterator[int]:
    """The ids of the projects whose annotations or label configs have changed since their heads were fitted.

    The project whose row was changed last comes first, be it by annotations or by a fit of its heads. They are
    read in pieces: who needs the first only does not wait until thousands are read. The index `project_due` has no
    others.

    Args:
        without: ids of projects that are left out.
    """
    rows = select(Project.id, Project.updated_at).where(
        Project.is_deleted.is_(False),
        Project.label_config.is_not(None),
        Project.id.not_in(without),
        or_(
            Project.annotation_revision != Project.head_revision,
            Project.label_config.is_distinct_from(Project.head_config),
        ),
    )
    ordered = rows.order_by(Project.updated_at.desc(), Project.id.desc()).limit(DUE_PER_QUERY)
    piece = session.execute(ordered).all()
    while piece:
        yield from (row.id for row in piece)
        last = piece[-1]
        is_after = or_(
            Project.updated_at < last.updated_at,
            and_(Project.updated_at == last.updated_at, Project.id < last.id),
        )
        piece = session.execute(ordered.where(is_after)).all() if len(piece) == DUE_PER_QUERY else []


def of_project(session: Session, project_id: int, *options: ORMOption) -> dict[str, ProjectHead]:
    """from_name -> the newest head, whether or not it answers under the present label config.

    Args:
        options: of the query.
    """
    rows = select(ProjectHead).options(*options).where(ProjectHead.project_id == project_id)
    return {row.from_name: row for row in session.scalars(rows)}


def list_all(session: Session) -> list[ProjectHead]:
    """The heads of all projects."""
    return list(session.scalars(select(ProjectHead).order_by(ProjectHead.project_id, ProjectHead.from_name)))


def answering(session: Session, project: Project) -> dict[str, ProjectHead]:
    """from_name -> the head that answers now. Control tags without a head are missing."""
    return of_project(session, project.id) if project.has_heads else {}


def answering_with_annotation_ids(session: Session, project: Project) -> dict[str, ProjectHead]:
    """As `answering`; the rows have their `annotation_ids`, too, read in the same query."""
    return of_project(session, project.id, undefer(ProjectHead.annotation_ids)) if project.has_heads else {}


def count_annotations(session: Session, head: ProjectHead) -> int:
    """On how many annotations a head was fitted. The database counts them, and none is read."""
    is_head = (ProjectHead.project_id == head.project_id, ProjectHead.from_name == head.from_name)
    count = session.scalar(select(func.json_array_length(ProjectHead.annotation_ids)).where(*is_head))
    return count or 0


def replace(session: Session, project: Project, heads: Mapping[str, ProjectHead], number: int) -> None:
    """Make these the heads of the project. The caller has locked the project's row.

    Args:
        heads: by control tag, with a head for each that has one.
        number: of the newest of them; 0 if there is none.
    """
    session.execute(delete(ProjectHead).where(ProjectHead.project_id == project.id))
    session.add_all(heads.values())
    project.head_number = number


def store_with(version: ModelVersion, project: Project, heads: Mapping[str, ProjectHead]) -> None:
    """Note in the row of a new version what its heads are, and what they were fitted on.

    Heads of other control tags that were noted before stay.

    Args:
        heads: by control tag, with their `annotation_ids`.
    """
    records = {**version.metrics.get(VERSION_HEADS, {}), **_records_of(project, heads)}
    version.metrics = {**version.metrics, VERSION_HEADS: records}
    ids = {tag: head.annotation_ids for tag, head in heads.items()}
    version.head_annotation_ids = {**(version.head_annotation_ids or {}), **ids}


def _records_of(project: Project, heads: Mapping[str, ProjectHead]) -> dict[str, Any]:
    return {
        tag: {
            "number": project.head_number,
            "labels": head.labels,
            "digest": head.digest,
            "adapter": head.adapter,
            "annotations": len(head.annotation_ids),
            "fitted_at": head.fitted_at.isoformat(),
            "label_config": _config_digest(project),
        }
        for tag, head in heads.items()
    }


def restore(session: Session, project: Project) -> None:
    """Have the heads answer that are stored with the live version, after people made it live.

    Annotations that are here by now and that these were not fitted on count again after the next run's promotion.
    The base models have no heads. The caller has locked the project's row.
    """
    version = versions.get(session, project.id, project.live_number) if project.live_number else None
    records: dict[str, Any] = {} if version is None else version.metrics.get(VERSION_HEADS, {})
    ids = {} if version is None else version.head_annotation_ids or {}
    rows = {
        tag: ProjectHead(
            project_id=project.id,
            from_name=tag,
            folder=project.live_version,
            labels=record["labels"],
            digest=record["digest"],
            adapter=record["adapter"],
            annotation_ids=ids.get(tag, []),
            fitted_at=datetime.fromisoformat(record["fitted_at"]),
        )
        for tag, record in records.items()
    }
    replace(session, project, rows, max((record["number"] for record in records.values()), default=0))
    # Under another label config than that of then, the heads are fitted again on what they knew.
    is_same_config = all(record["label_config"] == _config_digest(project) for record in records.values())
    project.head_config = project.label_config if is_same_config else None
    project.head_revision = project.annotation_revision
    project.heads_restored_at = now()


def count_all_again(project: Project) -> None:
    """Fit heads on all annotations again, if some are left out. The caller has locked the project's row."""
    if project.heads_restored_at is not None:
        project.heads_restored_at = None
        count_change(project)


def usable_annotations(project: Project) -> tuple[ColumnElement[bool], ...]:
    """The conditions of annotations that heads may learn from."""
    return (
        Annotation.project_id == project.id,
        Annotation.is_deleted.is_(False),
        Annotation.was_cancelled.is_(False),
        Annotation.task_id.is_not(None),
    )


def count_left_out(session: Session, project: Project) -> int:
    """How many annotations heads leave out, since people made the live version live (`restore`).

    0 if the label config asks nothing that a head could answer.
    """
    restored = restored_annotation_ids(session, project)
    if restored is None or not _is_headed(project):
        return 0
    is_older = Annotation.received_at <= project.heads_restored_at
    ids = session.scalars(select(Annotation.id).where(*usable_annotations(project), is_older))
    return len(set(ids) - restored)


def restored_annotation_ids(session: Session, project: Project) -> frozenset[int] | None:
    """The annotations that the heads of the live version were fitted on, if people made it live; else None."""
    if project.heads_restored_at is None:
        return None
    if not project.live_number:
        return frozenset()
    ids_by_tag = versions.get(session, project.id, project.live_number).head_annotation_ids or {}
    return frozenset(annotation_id for ids in ids_by_tag.values() for annotation_id in ids)


def _is_headed(project: Project) -> bool:
    try:
        bound = bind(project.label_config or "")
    except LabelConfigError:
        return False
    return any(issubclass(problem.input_type, HEADED) for problem in bound.bindings)


def _config_digest(project: Project) -> str:
    return digest((project.label_config or "").encode())
