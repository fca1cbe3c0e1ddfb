"""The client of Label Studio's API, on label-studio-sdk; written against Label Studio 1.23.2.

The SDK's calls where it has them. Plain HTTP where it has none (test request, next task), and where its
parsed objects would lose what we keep: annotations stay dicts as in webhook payloads. Nothing is retried.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, Self

import httpx

# label_studio_sdk.client would add pandas and two seconds to every process that imports this module.
from label_studio_sdk.base_client import LabelStudioBase
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.types.prediction_request import PredictionRequest

from lorabel.errors import LabelStudioError, LabelStudioRefusedError
from lorabel.label_studio.access_token import NEW_TOKEN, AccessToken

TASKS_PER_PAGE = 100
SEQUENTIAL = "Sequential sampling"
UNCERTAINTY = "Uncertainty sampling"


class AnnotatedTask(NamedTuple):
    """A task with all its annotations (skipped ones too), each as in webhook payloads.

    `versions` are the model versions of the predictions that it has.
    """

    task_id: int
    data: dict[str, Any]
    annotations: list[dict[str, Any]]
    versions: frozenset[str] = frozenset()


class TaskPage(NamedTuple):
    """Some tasks by id, and how many there are from the first of them on."""

    tasks: list[AnnotatedTask]
    total: int


class NewPrediction(NamedTuple):
    task_id: int
    result: list[dict[str, Any]]
    score: float
    model_version: str


@dataclass(frozen=True)
class ProjectInfo:
    """`model_version` is the title of the backend (or a stored version) whose predictions are shown.

    `is_sequential`: annotators get the open tasks by id.
    """

    id: int
    title: str
    label_config: str
    model_version: str
    is_prelabeling: bool
    is_sequential: bool = True


@dataclass(frozen=True)
class Backend:
    """`state` is Label Studio's: CO connected, DI disconnected, ER error, ..."""

    id: int
    url: str
    title: str
    state: str
    error: str
    auth_user: str | None


@dataclass(frozen=True)
class Webhook:
    id: int
    url: str
    is_active: bool
    sends_payload: bool
    sends_all_actions: bool
    headers: dict[str, str]

    def is_right(self, headers: dict[str, str]) -> bool:
        """Whether every event comes in full and with these headers (it may have others)."""
        is_full = self.is_active and self.sends_payload and self.sends_all_actions
        return is_full and headers.items() <= self.headers.items()


@dataclass(frozen=True)
class Server:
    """`clock_ahead_s`: how far its clock is before ours, within about a second."""

    version: str
    clock_ahead_s: float


class LabelStudio:
    """Thread-safe. Every call raises LabelStudioError, with what was found and what to do.

    Args:
        url: the address as this machine sees it; a path is kept.
        api_key: a personal access token or a legacy token; None for calls without login.
        timeout_s: seconds for one request.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._token = AccessToken(self.url, api_key, timeout_s) if api_key else None
        # Redirects are not followed: they would turn a POST into a GET, and may lead to another host.
        self._http = httpx.Client(auth=self._token, timeout=timeout_s, trust_env=False)
        # The SDK's own exchange of tokens renews too late (at the end, not before); ours overwrites its header.
        self._sdk = LabelStudioBase(
            base_url=self.url, api_key="set-by-AccessToken", httpx_client=self._http, max_retries=0
        )

    def authorization(self) -> str | None:
        """The Authorization header's value, for API and media downloads; None without a token."""
        return self._token.header() if self._token else None

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def server(self) -> Server:
        """Needs no token."""
        answer = self._send("GET", "/api/version")
        date = answer.headers.get("Date")
        ahead = (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds() if date else 0.0
        return Server(str(_json(answer).get("release", "unknown")), ahead)

    def email(self) -> str:
        """Who the token belongs to."""
        with self._calling():
            return str(self._sdk.users.whoami().email)

    def project(self, project_id: int) -> ProjectInfo:
        with self._calling():
            found = self._sdk.projects.get(project_id)
        return ProjectInfo(
            found.id,
            found.title or "",
            found.label_config or "",
            found.model_version or "",
            bool(found.show_collab_predictions),
            found.sampling in (None, SEQUENTIAL),
        )

    def update_project(self, project_id: int, **settings: Any) -> None:
        with self._calling():
            self._sdk.projects.update(project_id, **settings)

    def backends(self, project_id: int) -> list[Backend]:
        """In Label Studio's order; it asks only the first for predictions. Calls /health and /setup of each."""
        with self._calling():
            found = self._sdk.ml.list(project=project_id)
        return [
            Backend(b.id, b.url, b.title or "", b.state or "", b.error_message or "", b.basic_auth_user or None)
            for b in found
        ]

    def add_backend(self, project_id: int, url: str, title: str, auth: tuple[str, str] | None) -> None:
        """Calls the backend's /health and /setup; Label Studio makes a webhook for `<url>/webhook`."""
        with self._calling():
            self._sdk.ml.create(project=project_id, url=url, title=title, **_auth_columns(auth))

    def update_backend(self, backend: Backend, project_id: int, auth: tuple[str, str] | None) -> None:
        """Give a backend our login. Label Studio answers 500 unless `url` and `project` come along."""
        with self._calling():
            self._sdk.ml.update(backend.id, project=project_id, url=backend.url, **_auth_columns(auth))

    def delete_backend(self, backend_id: int) -> None:
        with self._calling():
            self._sdk.ml.delete(backend_id)

    def test_backend(self, backend_id: int) -> Any:
        """What the backend predicts for some task of the project ("Send Test Request"); nothing is saved."""
        return self.call("POST", f"/api/ml/{backend_id}/predict/test?random=true", timeout_s=110.0)

    def webhooks(self, project_id: int) -> list[Webhook]:
        with self._calling():
            found = self._sdk.webhooks.list(project=str(project_id))
        return [
            Webhook(
                hook.id,
                hook.url,
                bool(hook.is_active),
                bool(hook.send_payload),
                bool(hook.send_for_all_actions),
                dict(hook.headers or {}),
            )
            for hook in found
        ]

    def add_webhook(self, project_id: int, url: str, headers: dict[str, str]) -> None:
        with self._calling():
            self._sdk.webhooks.create(
                project=project_id, url=url, headers=headers, send_payload=True, send_for_all_actions=True
            )

    def repair_webhook(self, webhook: Webhook, headers: dict[str, str]) -> None:
        """Switch it on, for all actions, with payload and with these headers besides those it has."""
        with self._calling():
            self._sdk.webhooks.update(
                webhook.id,
                url=webhook.url,
                headers={**webhook.headers, **headers},
                is_active=True,
                send_payload=True,
                send_for_all_actions=True,
            )

    def first_task(self, project_id: int) -> AnnotatedTask | None:
        tasks = self.tasks_after(project_id, 0, page_size=1).tasks
        return tasks[0] if tasks else None

    def tasks_after(
        self, project_id: int, last_id: int, *, only_unlabeled: bool = False, page_size: int = TASKS_PER_PAGE
    ) -> TaskPage:
        """The next tasks by id. `only_unlabeled`: those without an annotation (a skip is none)."""
        filters = [_equal("total_annotations", 0)] if only_unlabeled else []
        return self._page(project_id, [_more_than("id", last_id), *filters], page_size)

    def tasks_of(self, project_id: int, task_ids: Sequence[int]) -> list[AnnotatedTask]:
        """Those of a few tasks that are there, by id."""
        selected = {"all": False, "included": list(task_ids)}
        return self._page(project_id, [], len(task_ids), selectedItems=selected).tasks if task_ids else []

    def add_predictions(self, project_id: int, predictions: Sequence[NewPrediction]) -> None:
        """All of them or, on an error, none: Label Studio adds up to 500 in one transaction."""
        rows = [
            PredictionRequest(
                task=one.task_id, result=one.result, score=one.score, model_version=one.model_version
            )
            for one in predictions
        ]
        with self._calling():
            self._sdk.projects.import_predictions(project_id, request=rows)

    def delete_predictions(self, project_id: int, model_version: str) -> None:
        """Those of one version. Label Studio sets the project's `model_version` to null with it."""
        path = f"/api/projects/{project_id}/model-versions/"
        self.call("DELETE", path, json={"model_version": model_version})

    def tasks(self, project_id: int) -> Iterator[AnnotatedTask]:
        """Every task, by id."""
        return self._pages(project_id, [])

    def annotated_tasks(self, project_id: int) -> Iterator[AnnotatedTask]:
        """Every task with an annotation or a skip, once."""
        seen: set[int] = set()
        for counter in ("total_annotations", "cancelled_annotations"):
            for task in self._pages(project_id, [_more_than(counter, 0)]):
                if task.task_id not in seen:
                    seen.add(task.task_id)
                    yield task

    def has_annotation(self, annotation_id: int) -> bool:
        try:
            self.call("GET", f"/api/annotations/{annotation_id}/")
        except LabelStudioRefusedError as error:
            if error.status_code == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    def call(self, method: str, path: str, *, timeout_s: float | None = None, **request: Any) -> Any:
        """A call that the SDK lacks; the decoded JSON answer. `request` is httpx's (`json`, `files`, ...)."""
        if timeout_s is not None:
            request["timeout"] = timeout_s
        return _json(self._send(method, path, **request))

    def _pages(self, project_id: int, filters: list[dict[str, Any]]) -> Iterator[AnnotatedTask]:
        """Pages follow the task's id, not a page number: tasks that come and go meanwhile shift nothing."""
        last_id = 0
        while page := self._page(project_id, [_more_than("id", last_id), *filters], TASKS_PER_PAGE).tasks:
            yield from page
            last_id = page[-1].task_id

    def _page(self, project_id: int, filters: list[dict[str, Any]], page_size: int, **query: Any) -> TaskPage:
        """With `fields=all`, since the list of model versions alone is cut off after 500 characters."""
        wanted = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"], **query}
        answer = self.call(
            "GET",
            "/api/tasks/",
            params={
                "project": project_id,
                "fields": "all",
                "page_size": page_size,
                "query": json.dumps(wanted),
            },
        )
        tasks = [
            AnnotatedTask(
                task["id"],
                task["data"],
                task["annotations"],
                frozenset(str(prediction["model_version"]) for prediction in task["predictions"]),
            )
            for task in answer["tasks"]
        ]
        return TaskPage(tasks, answer["total"])

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._calling():
            answer = self._http.request(method, self.url + path, **request)
        if not answer.is_success:
            is_json = answer.headers.get("Content-Type", "").startswith("application/json")
            raise self._refusal(answer.status_code, _json(answer) if is_json else answer.text)
        return answer

    @contextmanager
    def _calling(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise LabelStudioError(
                f"Label Studio at {self.url} cannot be reached ({type(error).__name__}: {error}); "
                "is it running, and is the address right?"
            ) from error
        except ApiError as error:
            raise self._refusal(error.status_code or 0, error.body) from error

    def _refusal(self, status_code: int, body: Any) -> LabelStudioRefusedError:
        detail = _detail(body)
        message = f"Label Studio at {self.url} answered {status_code}: {detail}"
        if status_code == httpx.codes.UNAUTHORIZED:
            message += f"; the token is missing, wrong or of a kind that is not allowed: {NEW_TOKEN}"
        return LabelStudioRefusedError(message, status_code=status_code, detail=detail)


def _auth_columns(auth: tuple[str, str] | None) -> dict[str, Any]:
    if auth is None:
        return {"auth_method": "NONE"}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": auth[0], "basic_auth_pass": auth[1]}


def _more_than(column: str, value: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": "greater", "type": "Number", "value": value}


def _equal(column: str, value: int) -> dict[str, Any]:
    return {**_more_than(column, value), "operator": "equal"}


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else None
    except ValueError as error:
        raise LabelStudioError(
            f"{answer.request.url} answered {answer.status_code} with {answer.text[:80]!r}, expected JSON; "
            "is there a Label Studio at this address?"
        ) from error


def _detail(body: Any) -> str:
    """Label Studio's explanation: `detail`, and what it says about single fields."""
    if not isinstance(body, dict):
        text = str(body).strip()
        return "a web page instead of JSON; is this Label Studio's address?" if text[:1] == "<" else text[:300]
    fields = body.get("validation_errors") or {}
    reasons = [f"{name}: {reason}" for name, reason in fields.items()] if isinstance(fields, dict) else [fields]
    return "; ".join(str(part) for part in (body.get("detail", body), *reasons))[:1000]
