"""What a version and its parent answered to the tasks of its evaluation, to set versions side by side.

Written where a run makes a version, accepted or not. Heads that are fitted after every annotation are not
evaluated, and get none.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lorabel.database.tables import ModelVersion, Project, TaskOutcome
from lorabel.errors import LorabelError
from lorabel.labeling import bit_masks
from lorabel.labeling.redacted_bodies import RedactedBody
from lorabel.labeling.regions import Region
from lorabel.problems.base import Problem, TaskData
from lorabel.problems.binding import bind
from lorabel.redaction import Redactor
from workers.acceptance import JudgedTask
from workers.attempt import Attempt
from workers.selection import Selection
from workers.services import Services

log = logging.getLogger(__name__)

# Of a control tag's tested tasks at most so many are kept: in all versions the same ones, by a hash of the id.
MOST_TASKS = 500
# Of a longer answer, in characters of JSON, masks are kept as small as they are drawn. If it is too long
# nevertheless, only its value is kept.
LONGEST_RESULT = 20_000


def make_outcomes(
    services: Services, project: Project, version: ModelVersion, attempts: dict[str, Attempt], selection: Selection
) -> list[TaskOutcome]:
    """The rows of the control tags for which the version has new adapters, with everything masked (REDACT).

    A task that cannot be compared has none: a training run is not lost for that.

    Args:
        selection: the annotations that the run has read, with the data of their tasks.
    """
    data = {
        annotation.task_id: annotation.task_data
        for annotation in selection.annotations
        if annotation.task_id is not None and isinstance(annotation.task_data, dict)
    }
    problems = {problem.from_name: problem for problem in bind(project.label_config or "").bindings}
    outcomes = []
    for tag, attempt in attempts.items():
        is_new = version.adapters.get(tag, "").startswith(f"{version.name}/")
        if tag in problems and attempt.judgement is not None and is_new:
            outcomes += _of_tag(problems[tag], _chosen(attempt.judgement.tested), data, services.redactor)
    return outcomes


def _of_tag(
    problem: Problem, chosen: Sequence[JudgedTask], data: Mapping[int, TaskData], redactor: Redactor
) -> list[TaskOutcome]:
    outcomes, is_logged = list[TaskOutcome](), False
    for tested in chosen:
        try:
            # What is masked in a task is masked in its texts wherever it stands, and not in those of other tasks.
            body = RedactedBody(redactor)
            outcomes.append(_outcome(problem, tested, data.get(tested.task_id, {}), body))
        except Exception:
            if not is_logged:
                log.exception(
                    "tasks of %r are not set side by side, for example %d", problem.from_name, tested.task_id
                )
                is_logged = True
    return outcomes


def _chosen(tested: Iterable[JudgedTask]) -> list[JudgedTask]:
    """At most MOST_TASKS tasks, each once."""
    by_task = {task.task_id: task for task in tested}
    return sorted(by_task.values(), key=lambda task: _rank(task.task_id))[:MOST_TASKS]


def _rank(task_id: int) -> bytes:
    return hashlib.blake2b(f"outcome {task_id}".encode(), digest_size=8).digest()


def _outcome(problem: Problem, tested: JudgedTask, data: TaskData, body: RedactedBody) -> TaskOutcome:
    return TaskOutcome(
        from_name=problem.from_name,
        task_id=tested.task_id,
        value=_value(problem, tested.target, tested.candidate),
        live_value=_value(problem, tested.target, tested.live),
        result=_result(problem, tested.candidate, data, body),
        live_result=_result(problem, tested.live, data, body),
    )


def _value(problem: Problem, target: Any, output: Any) -> float | None:
    value = problem.value(target, output)
    return value if math.isfinite(value) else None


def _result(problem: Problem, output: Any, data: TaskData, body: RedactedBody) -> list[Any] | None:
    """The regions that are predicted; None for those of regions that other control tags have drawn."""
    if problem.is_per_region:
        return None
    try:
        regions: Sequence[Region] = problem.prediction(output, data).regions
    except LorabelError as error:
        log.warning("an answer of %r is not kept: %s", problem.from_name, error)
        return None
    kept = [{key: value for key, value in region.items() if key not in ("id", "score")} for region in regions]
    masked: list[Any] = body.of({"data": data, "predictions": [{"result": kept}]})["predictions"][0]["result"]
    if not _is_short(masked):
        masked = [_coarse(region) for region in masked]
    return masked if _is_short(masked) else None


def _is_short(result: list[Any]) -> bool:
    return len(json.dumps(result)) <= LONGEST_RESULT


def _coarse(region: Region) -> Region:
    """The region of a small picture, if it is a mask."""
    if "rle" not in region.get("value", {}):
        return region
    size = region["original_width"], region["original_height"]
    mask, _ = bit_masks.decode_small(region["value"]["rle"], *size, bit_masks.DRAWN_SIDE)
    height, width = mask.shape
    value = {**region["value"], "rle": bit_masks.encode(bit_masks.runs_of(mask))}
    return {**region, "original_width": width, "original_height": height, "value": value}
