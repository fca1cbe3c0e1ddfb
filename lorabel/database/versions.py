"""Rows of model versions, and which version of a project is live. Only `make_live` changes that.

A version is a set of adapters, one per control tag. `p<project>.v0` is the base models without adapters and has
no row.
"""

import logging
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, defer, load_only

from lorabel.database.tables import ModelVersion, Project, VersionState, now, version_name
from lorabel.errors import ConflictError, NotFoundError

log = logging.getLogger(__name__)

OfVersion = TypeVar("OfVersion")

NUMBER = re.compile(r"[0-9]{1,9}")
FULL_NAME = re.compile(r"p(?P<project>[0-9]{1,9})\.v(?P<number>[0-9]{1,9})")
# What a prediction is stored under: a version, of a project or alone, with its heads and rules.
SERVED_NAME = re.compile(
    r"(?P<version>(?:p[0-9]{1,9}\.)?v?[0-9]{1,9})(?:\.h(?P<heads>[0-9]{1,9}))?(?:\.r(?P<rules>[0-9]{1,9}))?"
)
LONGEST_SHOWN_NAME = 40
# Key in a version's metrics, see `tags_beside_head`.
BESIDE_HEAD = "beside_head"
# Key in the metrics of runs and versions: by control tag, what the candidate gains over the fitted head alone.
OVER_HEAD = "over_head"
# Key in a version's metrics, see `tags_in_place_of_head`.
IN_PLACE_OF_HEAD = "in_place_of_head"
# The family of adapters that answer in place of heads.
BOXES, MASKS = "detector", "mask_pipeline"
# What versions call a family -> its name since then. Nothing is trained of what is named `tracker` now.
RENAMED = {"tracker": "track_pipeline"}


def names(session: Session, project_id: int) -> list[str]:
    """The names of all versions of a project, newest first, v0 at last."""
    of_project = select(ModelVersion.number).where(ModelVersion.project_id == project_id)
    numbers = session.scalars(of_project.order_by(ModelVersion.number.desc()))
    return [*(version_name(project_id, number) for number in numbers), version_name(project_id, 0)]


def list_of(session: Session, project_id: int) -> list[ModelVersion]:
    """All versions of a project except v0, newest first."""
    of_project = select(ModelVersion).where(ModelVersion.project_id == project_id)
    return list(session.scalars(of_project.order_by(ModelVersion.number.desc())))


def page_of(session: Session, project_id: int, offset: int, limit: int) -> list[tuple[ModelVersion, int]]:
    """Some versions of a project, newest first, each with on how many annotations it was trained."""
    rows = select(ModelVersion, func.json_array_length(ModelVersion.trained_on)).where(
        ModelVersion.project_id == project_id
    )
    without_ids = rows.options(defer(ModelVersion.trained_on)).order_by(ModelVersion.number.desc())
    return [(row[0], row[1]) for row in session.execute(without_ids.offset(offset).limit(limit))]


def newest_of_each(session: Session, project_ids: Sequence[int], most: int) -> dict[int, list[ModelVersion]]:
    """Project id -> its newest versions, at most `most`, newest first, without `trained_on`."""
    if not project_ids:
        return {}
    place = func.row_number().over(partition_by=ModelVersion.project_id, order_by=ModelVersion.number.desc())
    ranked = (
        select(ModelVersion.id, place.label("place")).where(ModelVersion.project_id.in_(project_ids)).subquery()
    )
    rows = (
        select(ModelVersion)
        .join(ranked, ranked.c.id == ModelVersion.id)
        .where(ranked.c.place <= most)
        .options(defer(ModelVersion.trained_on))
        .order_by(ModelVersion.number.desc())
    )
    found: dict[int, list[ModelVersion]] = {project_id: [] for project_id in project_ids}
    for version in session.scalars(rows):
        found[version.project_id].append(version)
    return found


def get(session: Session, project_id: int, number: int) -> ModelVersion:
    """Raises NotFoundError if the project has no such version; v0 is none, since it has no row."""
    version = session.scalar(select(ModelVersion).where(*_is_version(project_id, number)))
    return _required(session, project_id, number, version)


def get_serving(session: Session, project_id: int, number: int) -> ModelVersion:
    """As `get`, with what a prediction needs: `adapters` and `metrics`, and no annotation ids."""
    columns = load_only(ModelVersion.adapters, ModelVersion.metrics)
    version = session.scalar(select(ModelVersion).options(columns).where(*_is_version(project_id, number)))
    return _required(session, project_id, number, version)


def count_trained_on(session: Session, project_id: int, number: int) -> int:
    """On how many annotations a version was trained. The database counts them, and none is read.

    Raises:
        NotFoundError: no such version.
    """
    length = func.json_array_length(ModelVersion.trained_on)
    count: int | None = session.scalar(select(length).where(*_is_version(project_id, number)))
    return _required(session, project_id, number, count)


def _is_version(project_id: int, number: int) -> tuple[ColumnElement[bool], ...]:
    return (ModelVersion.project_id == project_id, ModelVersion.number == number)


def _required(session: Session, project_id: int, number: int, value: OfVersion | None) -> OfVersion:
    """Return what was read of a version; raise NotFoundError if it is None, since there is no such version."""
    if value is None:
        known = ", ".join(names(session, project_id))
        raise NotFoundError(f"no version {version_name(project_id, number)}; known: {known}")
    return value


def adapters_of(session: Session, project_id: int, number: int) -> dict[str, str]:
    """from_name -> adapter name; empty for v0."""
    return get(session, project_id, number).adapters if number else {}


def temperatures(version: ModelVersion) -> dict[str, float]:
    """from_name -> the temperature that calibrates its scores (`workers.calibration`).

    A control tag has none if too few held-out tasks could tell, or if its scores are no probabilities.
    """
    calibrations = version.metrics.get("calibration", {})
    return {
        from_name: calibration["temperature"]
        for from_name, calibration in calibrations.items()
        if calibration is not None and not calibration.get("reason")
    }


def label_temperatures(version: ModelVersion) -> dict[str, dict[str, float]]:
    """from_name -> label -> the temperature that calibrates the scores of this label.

    A control tag is missing if nothing was calibrated, or all its labels together.
    """
    calibrations = version.metrics.get("calibration", {})
    by_tag = {tag: (calibration or {}).get("by_label", {}) for tag, calibration in calibrations.items()}
    return {tag: by_label for tag, by_label in by_tag.items() if by_label}


def offsets(version: ModelVersion) -> dict[str, float]:
    """from_name -> the offset that goes with its temperature, of control tags that have one."""
    calibrations = version.metrics.get("calibration", {})
    by_tag = {tag: (calibration or {}).get("offset", 0.0) for tag, calibration in calibrations.items()}
    return {tag: offset for tag, offset in by_tag.items() if offset}


def families(version: ModelVersion) -> dict[str, str]:
    """from_name -> name of the family of the adapter.

    A control tag is missing if its adapter was trained before versions recorded this.
    """
    names: dict[str, str] = version.metrics.get("families", {})
    return {tag: RENAMED.get(name, name) for tag, name in names.items()}


def tags_beside_head(version: ModelVersion) -> frozenset[str]:
    """The control tags whose adapters compute features for a fitted head, beside the base model's."""
    return frozenset(version.metrics.get(BESIDE_HEAD, ()))


def tags_in_place_of_head(version: ModelVersion) -> frozenset[str]:
    """The control tags whose adapters were better than the fitted head, and answer in its place.

    Of a version from before this was recorded, those of boxes: no head answered them, and people saw the adapters.
    """
    masks = frozenset(tag for tag, family in families(version).items() if family == MASKS)
    if IN_PLACE_OF_HEAD in version.metrics:
        return masks.union(version.metrics[IN_PLACE_OF_HEAD])
    return masks.union(tag for tag, family in families(version).items() if family == BOXES)


def adapters_without_head(version: ModelVersion) -> dict[str, str]:
    """from_name -> adapter name, for the adapters that answer without a fitted head."""
    return {tag: name for tag, name in version.adapters.items() if tag not in tags_beside_head(version)}


def adapters_beside_head(session: Session, project: Project, number: int) -> dict[str, str]:
    """from_name -> adapter name, for the adapters of a version that compute features for a fitted head."""
    if not number:
        return {}
    version = get(session, project.id, number)
    return {tag: name for tag, name in version.adapters.items() if tag in tags_beside_head(version)}


def live_adapters(session: Session, project: Project) -> dict[str, str]:
    """from_name -> adapter name of the live version; empty if the base models are live."""
    return adapters_of(session, project.id, project.live_number)


def parse_number(project_id: int, name: str | int) -> int:
    """`3`, `v3` or `p12.v3` -> 3.

    Raises:
        NotFoundError: the name is another project's version, that of heads, or no version name at all.
    """
    text = str(name).removeprefix(f"p{project_id}.").removeprefix("v")
    if not NUMBER.fullmatch(text):
        shown = str(name)[:LONGEST_SHOWN_NAME]
        version = without_heads(text)
        if version != text and NUMBER.fullmatch(version):
            raise NotFoundError(
                f"{shown!r} names the heads or rules of some time, which follow the annotations and are not "
                f"asked for; name the version p{project_id}.v{version}, which keeps the heads of when it was made"
            )
        raise NotFoundError(f"{shown!r} names no version of project {project_id}; expected p{project_id}.v<n>")
    return int(text)


def parse_name(name: str) -> tuple[int, int]:
    """`p12.v3` -> project 12 and number 3.

    Raises:
        NotFoundError: it is no full name of a version.
    """
    match = FULL_NAME.fullmatch(name)
    if match is None:
        raise NotFoundError(
            f"{name[:LONGEST_SHOWN_NAME]!r} is no full name of a version; expected for example p1.v3"
        )
    return int(match["project"]), int(match["number"])


def is_current(name: str, first: str) -> bool:
    """Whether a prediction was made by the version `first` and its rules, with the same heads or with newer ones.

    Args:
        name: the version of the prediction.
        first: a served version, e.g. `p12.v3.h7.r2` or `p12.v3` (see `Project.served_version`).
    """
    if name == first:
        return True
    version, heads, rules = _parts(name)
    first_version, first_heads, first_rules = _parts(first)
    return (version, rules) == (first_version, first_rules) and 0 < first_heads <= heads


def without_heads(name: str) -> str:
    """`p12.v3.h7.r2` -> `p12.v3`. A name that is none of ours stays."""
    return _parts(name)[0]


def with_rules_of(name: str, other: str) -> str:
    """A version with its heads, and the rules of another name: `p12.v3.h7`, `p12.v3.h8.r2` -> `p12.v3.h7.r2`."""
    number, own = rules_number(other), rules_number(name)
    bare = name.removesuffix(f".r{own}") if own else name
    return f"{bare}.r{number}" if number else bare


def rules_number(name: str) -> int:
    """`p12.v3.h7.r2` -> 2; 0 for a name without rules."""
    return _parts(name)[2]


def _parts(name: str) -> tuple[str, int, int]:
    """Version, number of the heads and number of the rules; 0 for none."""
    match = SERVED_NAME.fullmatch(name)
    return (
        (name, 0, 0) if match is None else (match["version"], int(match["heads"] or 0), int(match["rules"] or 0))
    )


def next_number(session: Session, project_id: int) -> int:
    """One more than the highest number of the project's versions; 1 if it has none."""
    highest = session.scalar(select(func.max(ModelVersion.number)).where(ModelVersion.project_id == project_id))
    return (highest or 0) + 1


def require_adapters(version: ModelVersion) -> None:
    """Raises ConflictError if the version's adapters were removed, as those of old rejected versions are."""
    if version.adapters_removed_at is not None:
        raise ConflictError(
            f"{version.name} cannot become live: it was rejected, and its adapters were removed on "
            f"{version.adapters_removed_at:%Y-%m-%d} (REJECTED_ADAPTER_RETENTION_DAYS); train again"
        )


def list_removable(session: Session, project_id: int, days: int, kept: int) -> list[ModelVersion]:
    """The rejected versions of a project whose adapters may be removed, the oldest first.

    A version that was promoted is not rejected any more, and its adapters stay, since people can go back to it.

    Args:
        days: younger versions are left out.
        kept: the newest rejected versions, of this number, are left out, too.
    """
    rejected = (
        select(ModelVersion)
        .where(
            ModelVersion.project_id == project_id,
            ModelVersion.state == VersionState.REJECTED,
            ModelVersion.adapters_removed_at.is_(None),
        )
        .order_by(ModelVersion.number.desc())
        .offset(kept)
    )
    cutoff = now() - timedelta(days=days)
    return [version for version in reversed(session.scalars(rejected).all()) if version.created_at < cutoff]


def make_live(session: Session, project: Project, number: int) -> None:
    """Retire the live version and make another version live.

    Args:
        number: number of the new live version; 0 for the base models.

    Raises:
        NotFoundError: no such version.
        ConflictError: the version's adapters were removed.
    """
    if number:
        require_adapters(get(session, project.id, number))
    if project.live_number:
        get(session, project.id, project.live_number).state = VersionState.RETIRED
    if number:
        version = get(session, project.id, number)
        version.state, version.promoted_at = VersionState.LIVE, now()
    project.live_number = number
