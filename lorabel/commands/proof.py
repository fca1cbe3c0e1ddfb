"""The proof of `lorabel connect`: one prediction, for which Label Studio asks our backend. Nothing is saved.

A control tag may be silent until annotations were learned (`Problem.is_silent_until_taught`); then an answer
without regions is right. Why a task could not be read is not in the answer: the backend stores it in the database.
"""

from collections.abc import Sequence
from typing import Any

from lorabel.database.project_keys import LabelStudioId
from lorabel.database.store import Store
from lorabel.database.tables import UnreadableTask, version_name
from lorabel.errors import LabelConfigError, LabelStudioError
from lorabel.inference.unreadable_tasks import MODEL_FAULT
from lorabel.label_studio.client import LabelStudio
from lorabel.label_studio.records import ProjectInfo
from lorabel.problems.base import Problem
from lorabel.problems.binding import bind
from lorabel.redaction import Redactor
from lorabel.redactors import make_redactor
from lorabel.settings import Settings

DOCTOR = "`lorabel doctor` looks at each part"
# Longer lists in a region are only counted: the points of a polygon, the bytes of a mask.
LONGEST_LIST = 8


def prove(
    settings: Settings, store: Store, label_studio: LabelStudio, project: ProjectInfo, own_id: int, backend_id: int
) -> tuple[bool, str]:
    """Let Label Studio ask the backend for a prediction of a random task.

    Args:
        own_id: our own id of the project.
        backend_id: the backend's id in Label Studio.

    Returns:
        Whether nothing failed, and the finding.
    """
    bindings = _bindings(project.label_config)
    if not bindings:
        return True, "the project has no control tag that we serve, so nothing was predicted"
    silent = _silence([binding for binding in bindings if binding.is_silent_until_taught])
    if label_studio.first_task(LabelStudioId(project.id)) is None:
        return True, f"the project has no task yet, so none was predicted{silent}"
    try:
        answer = label_studio.test_backend(backend_id)
    except LabelStudioError as error:
        return False, f"no prediction came back ({error}); {DOCTOR}"
    task_id = (answer.get("task") or {}).get("id")
    reason = _unreadable_reason(store, own_id, task_id)
    if reason is not None and MODEL_FAULT.match(reason):
        return False, f"no task can be predicted without its base model: {reason}; {DOCTOR}"
    if reason is not None:
        return False, f"task {task_id} cannot be read: {reason}; {DOCTOR}"
    return read_answer(answer, silent, version_name(own_id, 0), make_redactor(settings))


def read_answer(answer: Any, silent: str, base_version: str, redactor: Redactor) -> tuple[bool, str]:
    """Whether the answer to Label Studio's test request is right for a task that could be read, and the finding.

    A sample of the answer: `{"task": {"id": 7, ...}, "response": [<prediction>], ...}`.

    Args:
        silent: the part of the finding about control tags that are silent until taught; empty if there are none.
        base_version: the version that has learned nothing.
        redactor: masks the texts that are quoted.
    """
    task_id = (answer.get("task") or {}).get("id")
    predictions = answer.get("response") or []
    prediction = predictions[0] if len(predictions) == 1 and isinstance(predictions[0], dict) else {}
    regions, version = prediction.get("result"), prediction.get("model_version")
    silent = silent if version == base_version else ""
    if regions:
        values = ", ".join(_shown(region.get("value"), redactor) for region in regions)
        return (
            True,
            f"task {task_id} was predicted as {values} with score {prediction['score']:.2f} by {version}{silent}",
        )
    if regions == [] and silent:
        return True, f"task {task_id} was read, and the answer of {version} is empty{silent}"
    if regions == [] and prediction.get("score"):
        # A problem that allows any number of labels can answer with none.
        return True, f"task {task_id} was predicted to show none of the labels"
    quoted = redactor.masked_message(repr(predictions))
    return False, (
        f"task {task_id} was asked for, and {quoted:.200} came back: the model is not ready, or its answer "
        f"cannot be used; {DOCTOR}"
    )


def _bindings(label_config: str) -> Sequence[Problem]:
    try:
        return bind(label_config).bindings
    except LabelConfigError:
        return ()


def _silence(bindings: Sequence[Problem]) -> str:
    """The part of the finding about control tags that are silent until taught; empty if there are none."""
    names: dict[str, list[str]] = {}
    for binding in bindings:
        names.setdefault(binding.silence, []).append(f"{binding.from_name} ({type(binding).__name__})")
    return "".join(f"; {', '.join(group)}: {silence}" for silence, group in names.items())


def _unreadable_reason(store: Store, own_id: int, task_id: Any) -> str | None:
    """Why the backend could not read the task just now; None if it could."""
    with store.read() as session:
        row = session.get(UnreadableTask, (own_id, task_id)) if isinstance(task_id, int) else None
        return None if row is None else row.reason


def _shown(value: Any, redactor: Redactor) -> str:
    """The value of a region, masked, without the hundreds of numbers of a mask or a polygon."""
    if not isinstance(value, dict):
        return redactor.masked_message(str(value))
    return str({name: _shown_field(field, redactor) for name, field in value.items()})


def _shown_field(field: Any, redactor: Redactor) -> Any:
    if isinstance(field, list):
        is_long = len(field) > LONGEST_LIST
        return f"{len(field)} numbers" if is_long else [_shown_field(item, redactor) for item in field]
    if isinstance(field, dict):
        return {name: _shown_field(item, redactor) for name, item in field.items()}
    return redactor.masked_message(field) if isinstance(field, str) else field
