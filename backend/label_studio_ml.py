"""Lorabel as a model of label-studio-ml, for people who host models with `label-studio-ml start`.

This works with label-studio-ml 1.0.9 (the newest on PyPI) and 2.x (only in git). Its command copies the script
that it is given. A copy of this module would hide the package of the same name, so the script is one line:

    from backend.label_studio_ml import LorabelModel

Settings come from the environment. The model server and the workers must run too. Differences from our own
backend: 2.x drops ANNOTATIONS_CREATED and every deletion before we see them, so they are found by the comparison
with Label Studio's API before a training run. 1.0.9 names versions itself, see `fit`.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from flask import has_request_context, request
from label_studio_ml.model import LabelStudioMLBase
from pydantic import ValidationError

from backend import http_bodies, predictions, webhook_events
from backend.extra_params import read_extra_params
from backend.services import Services
from lorabel.database import projects, webhook_secrets
from lorabel.database.project_keys import ProjectKey
from lorabel.database.tables import version_name
from lorabel.errors import BadRequestError
from lorabel.label_studio.access import is_web_address
from lorabel.settings import Settings

HAS_OWN_VERSIONS = hasattr(LabelStudioMLBase, "set")
"""Whether a model names its version, as in 2.x. 1.0.9 answers /setup with the id of its last training job."""


class LorabelModel(LabelStudioMLBase):  # type: ignore[misc]
    """The model that label-studio-ml hosts. 1.0.9 creates an instance at every /setup, 2.x for each request, so an
    instance has no state of its own."""

    TRAIN_EVENTS = tuple(webhook_events.EVENT_BODIES)

    def setup(self) -> None:
        """Name the live version in the answer to /setup. Called by 2.x only."""
        if project_id := str(self.project_id):
            self.set("model_version", _live_version(_key(project_id)))

    def set_extra_params(self, extra_params: Any) -> None:
        """Remember the project's extra params. Called by 2.x only, whose own method fails on a JSON object."""
        if (params := read_extra_params(extra_params)) is not None:
            project = projects.resolve(_services().store, _key(self.project_id))
            projects.upsert(_services().store, project.id, extra_params=params)

    def predict(self, tasks: list[dict[str, Any]], context: Any = None, **_: Any) -> list[Any]:
        """Predict tasks: one prediction per task, in order; `[]` for a task that cannot be read now."""
        if not tasks:
            return []
        text = _project_text(getattr(self, "project_id", "") or tasks[0]["project"])
        self._remember_address(ProjectKey.parse(text))
        body = {
            "project": text,
            "tasks": tasks,
            "label_config": self.label_config,
            "params": {"context": context},
        }
        afterwards: list[Callable[[], object]] = []
        try:
            entries = predictions.predict(
                _services(), http_bodies.Predict.model_validate(body), afterwards=afterwards
            )
        except ValidationError as error:
            raise http_bodies.as_bad_request(error) from error
        # The package sends the answer itself, and calls nothing then.
        for function in afterwards:
            function()
        return [[] if entry is None else _to_dict(entry) for entry in entries]

    def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Store an event, as our own /webhook does. The workers apply it.

        2.x calls `fit(event, data)`. 1.0.9 calls `fit((), event=..., data=..., workdir=...)` in a separate process
        and treats each answer as a new model version, named after the job. So it gets an answer only if the live
        version has changed since the last answer.
        """
        event, data = (kwargs["event"], kwargs["data"]) if "event" in kwargs else args[:2]
        body = json.dumps({"action": event, **data}).encode()
        answer = webhook_events.receive(_services(), body, _webhook_secret())
        if HAS_OWN_VERSIONS:
            return answer.model_dump(exclude_none=True)
        reference = http_bodies.ProjectReference.model_validate(data["project"])
        with _services().store.read() as session:
            project = projects.find(session, reference.key)
        if project is None:
            return None
        answered = _last_answered_version(Path(kwargs["workdir"]).parent, project.id)
        served = project.served_version
        return {"project_id": project.id, "live_version": served} if served != answered else None

    def _remember_address(self, key: ProjectKey) -> None:
        """Remember Label Studio's address and token, which 1.0.9 keeps from /setup. 2.x does not keep them."""
        hostname = getattr(self, "hostname", None)
        if hostname and is_web_address(hostname):
            token = getattr(self, "access_token", None)
            project = projects.resolve(_services().store, key)
            projects.upsert(_services().store, project.id, hostname=hostname, setup_token=token)


def _to_dict(entry: http_bodies.PredictionEntry) -> dict[str, Any]:
    """The entry as JSON. 1.0.9 gets no version, so that Label Studio uses the version that /setup answered."""
    return entry.model_dump() if HAS_OWN_VERSIONS else entry.model_dump(exclude={"model_version"})


def _services() -> Services:
    """The services of this process. 1.0.9 forks, and a fork must not use the parent's connections."""
    return _open_services(os.getpid())


@lru_cache(maxsize=None)  # noqa: UP033 - keeps the parent's services, so that a child does not close them
def _open_services(process_id: int) -> Services:
    return Services.open(Settings())


def _webhook_secret() -> str | None:
    """The secret in the headers of the request. In 1.0.9 this process is a fork of the one that received it."""
    return request.headers.get(webhook_secrets.HEADER) if has_request_context() else None


def _project_text(project_id: Any) -> str:
    """The project as Label Studio names it in the request, with its creation time, which label-studio-ml drops."""
    body = request.get_json(silent=True) if has_request_context() else None
    text = str(body.get("project")) if isinstance(body, dict) else ""
    return text if text.split(".", 1)[0] == str(project_id) else str(project_id)


def _key(project_id: Any) -> ProjectKey:
    return ProjectKey.parse(_project_text(project_id))


def _live_version(key: ProjectKey) -> str:
    return projects.resolve(_services().store, key).served_version


def _last_answered_version(model_dir: Path, project_id: int) -> str:
    """The live version that `fit` last answered with, from the job results that 1.0.9 keeps."""
    for result in _results(model_dir):
        if result.get("project_id") == project_id:
            return str(result["live_version"])
    return version_name(project_id, 0)


def _results(model_dir: Path) -> Iterator[dict[str, Any]]:
    """The results in `<unix time>/job_result.json`, the newest first."""
    folders = [folder for folder in model_dir.iterdir() if folder.name.isdigit()]
    for folder in sorted(folders, key=lambda folder: -int(folder.name)):
        path = folder / "job_result.json"
        if path.is_file():
            try:
                yield json.loads(path.read_text())
            except ValueError as error:
                raise BadRequestError(f"{path} is no JSON: {error}; delete the folder") from error
