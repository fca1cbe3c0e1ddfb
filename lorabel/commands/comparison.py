"""`lorabel compare`: two versions of a project beside each other, with the scores of their adapters."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from lorabel.commands.context import new_table, open_context, print_json
from lorabel.commands.heading import print_heading
from lorabel.commands.versions import shown_state, version_record
from lorabel.database import projects, shown_predictions, versions
from lorabel.database.tables import ModelVersion

Scores = dict[str, Any]


@dataclass(frozen=True)
class ComparedScore:
    """A score of two versions' adapters for a control tag.

    Attributes:
        first: None if there is no such score, as of base models that no version was compared with.
        are_tasks_same: whether both were measured on the same tasks.
    """

    control_tag: str
    metric: str
    first: float | None
    second: float | None
    are_tasks_same: bool


def compare(first: str, second: str, *, is_json: bool) -> None:
    """Print two versions beside each other.

    Args:
        first: a full name such as `p1.v3`.
        second: a name that is full or not: `p1.v4`, `v4` or `4`.

    Raises:
        NotFoundError: there is no such version.
    """
    project_id, first_number = versions.parse_name(first)
    second_number = versions.parse_number(project_id, second)
    with open_context(is_json=is_json) as context:
        with context.store.read() as session:
            project = projects.get(session, project_id)
            pair = [_version(session, project_id, number) for number in (first_number, second_number)]
            scores = list(_compare(session, project_id, *pair))
            shown = shown_predictions.by_version(session, project_id)
        records = [version_record(project, version, shown) for version in pair]
        if is_json:
            print_json({"versions": records, "scores": [asdict(score) for score in scores]})
            return
        print_heading(context, project)
        columns = ("", *(record["version"] for record in records), "difference")
        states = ("state", *(shown_state(project, version) for version in pair), "")
        rows = [states, *_facts(records), *map(_cells, scores)]
        context.console.print(new_table(columns, rows, wrapped=columns[:3]))
        if not all(score.are_tasks_same for score in scores):
            context.console.print("* measured on different tasks: each on those of its own training run")


def _version(session: Session, project_id: int, number: int) -> ModelVersion | None:
    return versions.get(session, project_id, number) if number else None


def _compare(
    session: Session, project_id: int, first: ModelVersion | None, second: ModelVersion | None
) -> Iterator[ComparedScore]:
    """The scores of every control tag for which one of the versions has an adapter."""
    tags = {tag: None for version in (first, second) if version is not None for tag in version.adapters}
    for tag in tags:
        makers = [_maker(session, project_id, version, tag) for version in (first, second)]
        of_first, of_second, are_tasks_same = _scores(makers[0], makers[1], tag)
        for metric in {**of_first, **of_second}:
            yield ComparedScore(tag, metric, of_first.get(metric), of_second.get(metric), are_tasks_same)


def _maker(session: Session, project_id: int, version: ModelVersion | None, tag: str) -> ModelVersion | None:
    """The version that trained the adapter which `version` has for a control tag; None for the base model."""
    if version is None or tag not in version.adapters:
        return None
    maker_name = version.adapters[tag].partition("/")[0]
    return _version(session, project_id, versions.parse_number(project_id, maker_name))


def _scores(first: ModelVersion | None, second: ModelVersion | None, tag: str) -> tuple[Scores, Scores, bool]:
    """The scores of two adapters, and whether they are about the same tasks.

    A version was measured on the same tasks as the one that was live when it was trained.
    """
    first_number, second_number = (0 if version is None else version.number for version in (first, second))
    if second is not None and second.parent == first_number:
        return _measured(second, "live", tag), _measured(second, "candidate", tag), True
    if first is not None and first.parent == second_number:
        return _measured(first, "candidate", tag), _measured(first, "live", tag), True
    of_first, of_second = (
        {} if version is None else _measured(version, "candidate", tag) for version in (first, second)
    )
    return of_first, of_second, first_number == second_number


def _measured(version: ModelVersion, whose: str, tag: str) -> Scores:
    """The scores that are single numbers."""
    values = version.metrics.get(whose, {}).get(tag, {})
    return {name: value for name, value in values.items() if isinstance(value, int | float)}


def _facts(records: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield ("created", *(record["created_at"].strftime("%Y-%m-%d %H:%M") for record in records), "")
    yield ("parent", *(record["parent"] or "" for record in records), "")
    yield ("annotations", *(str(len(record["trained_on"])) for record in records), "")
    yield ("decision", *(record["metrics"].get("decision", "") for record in records), "")


def _cells(score: ComparedScore) -> tuple[str, ...]:
    name = f"{score.control_tag}: {score.metric}{'' if score.are_tasks_same else ' *'}"
    difference = "" if score.first is None or score.second is None else f"{score.second - score.first:+.3f}"
    return name, _shown(score.first), _shown(score.second), "" if score.metric == "tasks" else difference


def _shown(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"
