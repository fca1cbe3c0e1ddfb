"""Which fitted heads answer: those that know enough, where no better adapter is live."""

from sqlalchemy.orm import Session

from lorabel.database import project_heads, versions
from lorabel.database.tables import ModelVersion, Project, ProjectHead


def answering_heads(session: Session, project: Project, version: ModelVersion | None) -> dict[str, ProjectHead]:
    """from_name -> the head that answers now, also in place of an adapter.

    A head is missing if it knows much less than the run that made its control tag's adapter, or if that adapter
    was found to be better.

    Args:
        version: whose adapters answer without heads, with its `adapters` and `metrics`; None for the base models.
    """
    adapters = {} if version is None else versions.adapters_without_head(version)
    in_place = frozenset[str]() if version is None else versions.tags_in_place_of_head(version)
    return {
        from_name: row
        for from_name, row in project_heads.answering(session, project).items()
        if from_name not in adapters
        or (from_name not in in_place and _knows_enough(session, project, row, adapters[from_name]))
    }


def _knows_enough(session: Session, project: Project, head: ProjectHead, adapter: str) -> bool:
    """Whether a head learned from at least half as many annotations as the run that made an adapter.

    Else the adapter knows what the head does not, for example after a rollback to a version from before there were
    heads, or if most annotated tasks were deleted since.
    """
    _, number = versions.parse_name(adapter.partition("/")[0])
    trained_on = versions.count_trained_on(session, project.id, number)
    return project_heads.count_annotations(session, head) >= trained_on / 2
