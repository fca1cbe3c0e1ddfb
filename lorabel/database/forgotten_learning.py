"""What versions and heads have learned from annotations that are to be forgotten, and what becomes of them.

A head is fitted in closed form on features of annotated tasks, so it is fitted anew without them. An adapter keeps
what it has learned: people are told which versions have, and can have these removed and trained anew (`retire`).
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from lorabel.database import privacy_ledger, project_heads, training_runs, versions
from lorabel.database.project_heads import VERSION_HEADS
from lorabel.database.tables import Annotation, ModelVersion, Project, ProjectHead, TrainingRun, VersionState, now

# Key in a version's metrics: how many of the annotations that its adapters learned from were forgotten.
FORGOTTEN = "forgotten"
# What the record of a version's head has in place of the file's digest when the file has to go.
NO_FILE = ""
RETRAIN = "lorabel forget --retrain"


class Learned(NamedTuple):
    """A version whose adapters have learned from what is forgotten.

    Attributes:
        annotations: how many of the annotations that it was trained on are forgotten, now or before.
        origin: name of the version from whose adapters its training began, if that one has learned from them.
    """

    number: int
    name: str
    is_live: bool
    annotations: int
    origin: str | None

    def __str__(self) -> str:
        learned = f"trained on {self.annotations} of them" if self.annotations else ""
        began = f"its training began from {self.origin}" if self.origin else ""
        state = " (live)" if self.is_live else ""
        return f"{self.name}{state}: {'; '.join(filter(None, (learned, began)))}"


def learned_versions(session: Session, project: Project, annotation_ids: Collection[int]) -> list[Learned]:
    """The versions with adapters that have learned from these annotations, or from others that were forgotten."""
    ids = set(annotation_ids)
    learned: dict[int, Learned] = {}
    for version in reversed(versions.list_of(session, project.id)):
        if version.adapters_removed_at is not None:
            continue
        count = len(ids.intersection(version.trained_on)) + version.metrics.get(FORGOTTEN, 0)
        origins = {version.parent, *(_number(name) for name in version.adapters.values())} - {version.number}
        origin = next((learned[number].name for number in sorted(origins) if number in learned), None)
        if count or origin:
            is_live = version.number == project.live_number
            learned[version.number] = Learned(version.number, version.name, is_live, count, origin)
    return list(learned.values())


def _number(adapter: str) -> int:
    """`p12.v3/label` -> 3."""
    return versions.parse_name(adapter.partition("/")[0])[1]


def strip(session: Session, project: Project, annotation_ids: Collection[int]) -> int:
    """Take annotations out of the records of versions, and have the heads that learned from them removed.

    Returns:
        How many versions had some of them.
    """
    ids = set(annotation_ids)
    count = 0
    for version in versions.list_of(session, project.id):
        of_adapters = ids.intersection(version.trained_on)
        by_tag: dict[str, list[int]] = version.head_annotation_ids or {}
        of_heads = {tag for tag, head_ids in by_tag.items() if ids.intersection(head_ids)}
        if of_adapters:
            version.trained_on = [id_ for id_ in version.trained_on if id_ not in ids]
            version.metrics = {
                **version.metrics, FORGOTTEN: version.metrics.get(FORGOTTEN, 0) + len(of_adapters)
            }  # fmt: skip
        if of_heads:
            version.head_annotation_ids = {
                tag: [id_ for id_ in head_ids if id_ not in ids] for tag, head_ids in by_tag.items()
            }
            _remove_heads(version, of_heads)
        count += bool(of_adapters or of_heads)
    return count


def _remove_heads(version: ModelVersion, tags: Iterable[str]) -> None:
    """Note that heads of a version have no files. Once it is live by hand, they are fitted on what is left."""
    records: dict[str, Any] = dict(version.metrics.get(VERSION_HEADS, {}))
    for tag in records.keys() & set(tags):
        left = len((version.head_annotation_ids or {})[tag])
        records[tag] = {**records[tag], "digest": NO_FILE, "label_config": "", "annotations": left}
    version.metrics = {**version.metrics, VERSION_HEADS: records}


def tags_without_file(version: ModelVersion) -> list[str]:
    """The control tags of a version whose heads were to be removed."""
    records: dict[str, Any] = version.metrics.get(VERSION_HEADS, {})
    return [tag for tag, record in records.items() if record["digest"] == NO_FILE]


def reset_heads(session: Session, project: Project) -> int:
    """Have no head answer until heads are fitted anew. The caller has locked the project's row.

    A fit that is under way has read the annotations of before. It finds that it was overtaken, since the heads
    count as fitted on a later revision than the one that it has read.

    Returns:
        How many heads answered.
    """
    heads = project_heads.of_project(session, project.id)
    privacy_ledger.forget_heads(session, project.id)
    session.execute(delete(ProjectHead).where(ProjectHead.project_id == project.id))
    project.head_number = 0
    project.head_config = project.label_config
    project.annotation_revision += 2
    project.head_revision = project.annotation_revision - 1
    return len(heads)


def retire(session: Session, project: Project, learned: Collection[Learned]) -> TrainingRun:
    """Have the adapters of these versions removed, and a run train on all annotations that are left.

    Live becomes the newest version that was live before and has not learned from what was forgotten, or else the
    base models. The caller has locked the project's row.

    Returns:
        The queued run.
    """
    numbers = {version.number for version in learned}
    if project.live_number in numbers:
        clean = (
            version.number
            for version in versions.list_of(session, project.id)
            if version.state == VersionState.RETIRED and version.number not in numbers
            if version.adapters_removed_at is None
        )
        versions.make_live(session, project, next(clean, 0))
        project.heads_restored_at = None
        reset_heads(session, project)
    for number in numbers:
        version = versions.get(session, project.id, number)
        version.state, version.adapters_removed_at = VersionState.REJECTED, now()
        version.metrics = {**version.metrics, "decision": "removed: it had learned from what was forgotten"}
    all_new = update(Annotation).where(Annotation.project_id == project.id)
    session.execute(all_new.values(run_id=None, tries=0))
    return training_runs.find_queued(session, project.id) or training_runs.add(session, project.id, RETRAIN)
