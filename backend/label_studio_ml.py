"""Lorabel's predictions and training for people who host models with `label-studio-ml start`.

Works with label-studio-ml 1.0.9 (the registry's newest) and 2.x (git only). Its command copies the script
that it is given, and a copy of this one would hide the package of the same name, so the script is one line:

    from backend.label_studio_ml import LorabelModel

Settings come from the environment as always; the model server and the workers run beside it. What is lost
against our own backend: 2.x drops ANNOTATIONS_CREATED and every deletion before we see them (the comparison
with Label Studio's API before a run finds them); 1.0.9 names versions itself, see `fit`.
"""

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from label_studio_ml.model import LabelStudioMLBase
from pydantic import ValidationError

from backend import events, http_bodies, predictions
from backend.services import Services
from lorabel.database import projects
from lorabel.database.tables import Project, version_name
from lorabel.errors import BadRequestError
from lorabel.settings import Settings

HAS_OWN_VERSIONS = hasattr(LabelStudioMLBase, "set")
"""2.x lets a model name its version; 1.0.9 answers /setup with the id of its last training job."""


class LorabelModel(LabelStudioMLBase):  # type: ignore[misc]
    """1.0.9 makes one at every /setup, 2.x one per request: it holds nothing."""

    TRAIN_EVENTS = tuple(events.EVENT_BODIES)

    def setup(self) -> None:
        """2.x only: what its /setup answers is the live version."""
        if project_id := str(self.project_id):
            self.set("model_version", _live_version(int(project_id)))

    def set_extra_params(self, extra_params: Any) -> None:
        """2.x only; its own wants a string, which Label Studio's JSON object is not."""
        if isinstance(extra_params, dict):
            projects.upsert(_services().store, int(self.project_id), extra_params=extra_params)

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **_: Any) -> list[Any]:
        """One prediction per task in order, `[]` for a task that cannot be read now."""
        if not tasks:
            return []
        project_id = int(getattr(self, "project_id", "") or tasks[0]["project"])
        self._remember_address(project_id)
        body = {
            "project": str(project_id),
            "tasks": tasks,
            "label_config": self.label_config,
            "params": {"context": context},
        }
        try:
            entries = predictions.predict(_services(), http_bodies.Predict.model_validate(body))
        except ValidationError as error:
            raise http_bodies.as_bad_request(error) from error
        return [[] if entry is None else _to_dict(entry) for entry in entries]

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """An event is stored and applied by the workers, as if it had come to our own /webhook.

        1.0.9 calls `fit((), event=..., data=..., workdir=...)` in a process of its own, and takes each
        answer for a new model, named after the job; so it gets one only when the live version has changed.
        2.x calls `fit(event, data)`.
        """
        event, data = (kwargs["event"], kwargs["data"]) if "event" in kwargs else args[:2]
        answer = events.receive(_services(), json.dumps({"action": event, **data}).encode())
        if HAS_OWN_VERSIONS:
            return answer.model_dump(exclude_none=True)
        project_id = int(data["project"]["id"])
        live = _live_version(project_id)
        return None if live == _told(Path(kwargs["workdir"]).parent, project_id) else _told_as(project_id, live)

    def _remember_address(self, project_id: int) -> None:
        """1.0.9 hands on what /setup said; 2.x does not."""
        if hostname := getattr(self, "hostname", None):
            token = getattr(self, "access_token", None)
            projects.upsert(_services().store, project_id, hostname=hostname, setup_token=token)


def _to_dict(entry: http_bodies.PredictionEntry) -> dict[str, Any]:
    """Label Studio takes a prediction without a version for one of the version that /setup named."""
    return entry.model_dump() if HAS_OWN_VERSIONS else entry.model_dump(exclude={"model_version"})


def _services() -> Services:
    """Made once per process: 1.0.9 forks, and connections must not be shared across that."""
    return _open_services(os.getpid())


@lru_cache(maxsize=None)  # noqa: UP033 - says what it means: the parent's stay untouched in a child
def _open_services(_: int) -> Services:
    return Services.open(Settings())


def _live_version(project_id: int) -> str:
    with _services().store.read() as session:
        project = session.get(Project, project_id)
        return project.live_version if project else version_name(project_id, 0)


def _told_as(project_id: int, live: str) -> dict[str, Any]:
    return {"project_id": project_id, "live_version": live}


def _told(model_dir: Path, project_id: int) -> str:
    """The live version that 1.0.9 was last told of, from the results that it keeps of its jobs."""
    for result in _results(model_dir):
        if result.get("project_id") == project_id:
            return str(result["live_version"])
    return version_name(project_id, 0)


def _results(model_dir: Path) -> Iterator[dict[str, Any]]:
    """Newest first: `<unix time>/job_result.json`."""
    for folder in sorted((f for f in model_dir.iterdir() if f.name.isdigit()), key=lambda f: -int(f.name)):
        path = folder / "job_result.json"
        if path.is_file():
            try:
                yield json.loads(path.read_text())
            except ValueError as error:
                raise BadRequestError(f"{path} is no JSON: {error}; delete the folder") from error
