"""What the client of Label Studio's API takes and returns: tasks, predictions, projects, backends, webhooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from lorabel.label_studio.error_texts import plain_text

MOST_QUOTED = 80


class AnnotatedTask(NamedTuple):
    """A task with all its annotations, skipped ones too; each is a dict as in webhook payloads.

    `prediction_ids`: the ids of the task's predictions, by their model versions. `predictions`: the predictions,
    each a dict with the keys `id`, `result`, `score`, `model_version` and `created_at` among others.
    """

    task_id: int
    data: dict[str, Any]
    annotations: list[dict[str, Any]]
    prediction_ids: Mapping[str, Sequence[int]] = MappingProxyType({})
    predictions: Sequence[dict[str, Any]] = ()

    @classmethod
    def of(cls, task: dict[str, Any]) -> Self:
        """Read a task as the API gives it with `fields=all`."""
        ids: dict[str, list[int]] = {}
        for prediction in task["predictions"]:
            ids.setdefault(str(prediction["model_version"]), []).append(prediction["id"])
        return cls(task["id"], task["data"], task["annotations"], ids, task["predictions"])

    @property
    def versions(self) -> frozenset[str]:
        """The model versions of the task's predictions."""
        return frozenset(self.prediction_ids)


class TaskPage(NamedTuple):
    """Tasks in the order of their ids.

    Attributes:
        total: how many tasks match the request, those on later pages included.
        annotations: how many annotations all of these have, without skips, as Label Studio counts them.
    """

    tasks: list[AnnotatedTask]
    total: int
    annotations: int


class NewPrediction(NamedTuple):
    """A prediction to be added to a task; `result` is a list of regions."""

    task_id: int
    result: list[dict[str, Any]]
    score: float
    model_version: str


@dataclass(frozen=True)
class ProjectInfo:
    """The settings of a project in Label Studio.

    Attributes:
        model_version: title of the backend, or stored version, whose predictions annotators see.
        is_prelabeling: whether annotators see predictions at all.
        is_sequential: whether annotators get open tasks in the order of their ids.
        created_at: None if Label Studio does not say it.
    """

    id: int
    title: str
    label_config: str
    model_version: str
    is_prelabeling: bool
    is_sequential: bool = True
    created_at: datetime | None = None


@dataclass(frozen=True)
class ProjectTitle:
    """A project's title in Label Studio, and when the project was created there."""

    id: int
    title: str
    created_at: datetime

    @classmethod
    def of(cls, project: dict[str, Any]) -> Self:
        """Read a project as the API gives it."""
        return cls(project["id"], project["title"] or "", datetime.fromisoformat(project["created_at"]))


@dataclass(frozen=True)
class Backend:
    """An ML backend of a project.

    Attributes:
        state: Label Studio's code: CO connected, DI disconnected, ER error, ...
        auth_user: user name for basic authentication, if there is one.
        is_interactive: whether the editor has an Auto-Annotation switch, and smart tools ask the backend.
    """

    id: int
    url: str
    title: str
    state: str
    error: str
    auth_user: str | None
    is_interactive: bool

    @classmethod
    def of(cls, row: Any) -> Self:
        """Read one of the SDK's rows."""
        return cls(
            row.id,
            row.url,
            row.title or "",
            row.state or "",
            plain_text(row.error_message or ""),
            row.basic_auth_user or None,
            bool(row.is_interactive),
        )


@dataclass(frozen=True)
class Webhook:
    """A webhook of a project; `sends_payload`: its requests carry the annotations, not only their ids."""

    id: int
    url: str
    is_active: bool
    sends_payload: bool
    sends_all_actions: bool
    headers: dict[str, str] = field(repr=False)  # with a password and a secret

    def is_right(self, headers: dict[str, str]) -> bool:
        """Whether the webhook sends every event, with its payload and with these headers, maybe among others."""
        is_full = self.is_active and self.sends_payload and self.sends_all_actions
        return is_full and headers.items() <= self.headers.items()


@dataclass(frozen=True)
class Server:
    """Label Studio's version and clock.

    Attributes:
        clock_ahead_s: seconds by which Label Studio's clock is ahead of ours, accurate to about a second; None if
            that could not be read.
        unread: what could not be read.
    """

    version: str
    clock_ahead_s: float | None
    unread: str = ""

    @classmethod
    def of(cls, versions: dict[str, Any], date: str | None) -> Self:
        """Read the answer to /api/version and its Date header, which a proxy may have removed or changed."""
        version = str(versions.get("release", "unknown"))
        if date is None:
            return cls(version, None, "its answer has no Date header")
        try:
            time = parsedate_to_datetime(date)
        except (ValueError, TypeError, OverflowError):
            return cls(version, None, f"the Date header of its answer, {date[:MOST_QUOTED]!r}, is no time")
        time = time if time.tzinfo else time.replace(tzinfo=UTC)  # "-0000" says that the zone is not known
        return cls(version, (time - datetime.now(UTC)).total_seconds())
