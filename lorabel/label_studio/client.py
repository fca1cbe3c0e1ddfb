"""A client of Label Studio's API, built on label-studio-sdk. Written against Label Studio 1.23.2.

It calls the SDK where that has a method. It sends plain HTTP requests where the SDK has none (e.g. the test
request), and where the SDK's parsed objects would lose something that we keep: annotations stay dicts as in
webhook payloads. No request is retried.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self

import httpx

# Not from label_studio_sdk.client: that imports pandas, which takes two seconds in every process that starts.
from label_studio_sdk.base_client import LabelStudioBase
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.types.prediction_request import PredictionRequest

from lorabel.database.project_keys import LabelStudioId
from lorabel.errors import LabelStudioError, LabelStudioRefusedError
from lorabel.label_studio.access_token import NEW_TOKEN, AccessToken
from lorabel.label_studio.error_texts import explanation, shown, unreachable
from lorabel.label_studio.records import (
    AnnotatedTask,
    Backend,
    NewPrediction,
    ProjectInfo,
    ProjectTitle,
    Server,
    TaskPage,
    Webhook,
)
from lorabel.network import client_options

TASKS_PER_PAGE = 100
SEQUENTIAL = "Sequential sampling"
UNCERTAINTY = "Uncertainty sampling"


class LabelStudio:
    """Label Studio's API. Thread-safe.

    Every method that sends a request raises LabelStudioError if Label Studio cannot be reached, and its subclass
    LabelStudioRefusedError if Label Studio answers with an error. The message says what to do. Projects have
    their ids in Label Studio here.

    Args:
        url: the address as this machine sees it; it may have a path.
        api_key: a personal access token or a legacy token; None for calls without login.
        timeout_s: seconds for one request.
    """

    def __init__(self, url: str, api_key: str | None, timeout_s: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self._token = AccessToken(self.url, api_key, timeout_s) if api_key else None
        # Redirects are not followed: they would turn a POST into a GET, and may lead to another host.
        self._http = httpx.Client(auth=self._token, timeout=timeout_s, **client_options(self.url))
        # The SDK renews an access token only when it has expired. Our `auth` renews earlier, and its header
        # replaces the SDK's.
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
        """Version and clock of the server. Needs no token."""
        answer = self._send("GET", "/api/version")
        versions = _json(answer)
        if not isinstance(versions, dict):
            raise LabelStudioError(f"{self.url}/api/version answered no object; is there a Label Studio?")
        return Server.of(versions, answer.headers.get("Date"))

    def email(self) -> str:
        """E-mail address of the user whose token this is."""
        with self._raising_our_errors():
            return str(self._sdk.users.whoami().email)

    def project(self, project_id: LabelStudioId) -> ProjectInfo:
        """The settings of a project."""
        with self._raising_our_errors():
            project = self._sdk.projects.get(project_id)
        return ProjectInfo(
            project.id,
            project.title or "",
            project.label_config or "",
            project.model_version or "",
            bool(project.show_collab_predictions),
            project.sampling in (None, SEQUENTIAL),
            project.created_at,
        )

    def titles(self, project_ids: Sequence[LabelStudioId]) -> list[ProjectTitle]:
        """The titles of up to 100 projects. Those that the user does not see are left out."""
        fields = {"ids": ",".join(map(str, project_ids)), "include": "id,title,created_at"}
        answer = self.call("GET", "/api/projects/", params={**fields, "page_size": len(project_ids)})
        return [ProjectTitle.of(row) for row in answer["results"]]

    def update_project(self, project_id: LabelStudioId, **settings: Any) -> None:
        """Change settings of a project; they have Label Studio's names."""
        with self._raising_our_errors():
            self._sdk.projects.update(project_id, **settings)

    def backends(self, project_id: LabelStudioId) -> list[Backend]:
        """The project's ML backends in Label Studio's order: only the first is asked for predictions.

        Label Studio calls /health and /setup of each backend before it answers.
        """
        with self._raising_our_errors():
            backends = self._sdk.ml.list(project=project_id)
        return [Backend.of(backend) for backend in backends]

    def add_backend(
        self, project_id: LabelStudioId, url: str, title: str, auth: tuple[str, str] | None, **columns: bool
    ) -> None:
        """Connect an ML backend. Label Studio calls its /health and /setup, and adds a webhook to `<url>/webhook`.

        Args:
            auth: user name and password for basic authentication; None for none.
            columns: `is_interactive`, if smart tools are to ask it.
        """
        with self._raising_our_errors():
            self._sdk.ml.create(project=project_id, url=url, title=title, **_auth_columns(auth), **columns)

    def update_backend(
        self, backend: Backend, project_id: LabelStudioId, auth: tuple[str, str] | None, **columns: bool
    ) -> None:
        """Change the login, and maybe `is_interactive`, of an ML backend.

        Label Studio answers 500 if the request lacks `url` or `project`.
        """
        with self._raising_our_errors():
            self._sdk.ml.update(backend.id, project=project_id, url=backend.url, **_auth_columns(auth), **columns)

    def delete_backend(self, backend_id: int) -> None:
        """Disconnect an ML backend."""
        with self._raising_our_errors():
            self._sdk.ml.delete(backend_id)

    def test_backend(self, backend_id: int) -> Any:
        """Have the backend predict a random task of the project ("Send Test Request"); nothing is saved.

        Returns:
            Label Studio's answer, decoded from JSON.
        """
        return self.call("POST", f"/api/ml/{backend_id}/predict/test?random=true", timeout_s=110.0)

    def webhooks(self, project_id: LabelStudioId) -> list[Webhook]:
        """The webhooks of a project."""
        with self._raising_our_errors():
            webhooks = self._sdk.webhooks.list(project=str(project_id))
        return [
            Webhook(
                webhook.id,
                webhook.url,
                bool(webhook.is_active),
                bool(webhook.send_payload),
                bool(webhook.send_for_all_actions),
                dict(webhook.headers or {}),
            )
            for webhook in webhooks
        ]

    def add_webhook(self, project_id: LabelStudioId, url: str, headers: dict[str, str]) -> None:
        """Add a webhook that sends every event of the project, with its payload and with these headers."""
        with self._raising_our_errors():
            self._sdk.webhooks.create(
                project=project_id, url=url, headers=headers, send_payload=True, send_for_all_actions=True
            )

    def repair_webhook(self, webhook: Webhook, headers: dict[str, str]) -> None:
        """Make a webhook active, for all actions, with payload, and add these headers to those that it has."""
        with self._raising_our_errors():
            self._sdk.webhooks.update(
                webhook.id,
                url=webhook.url,
                headers={**webhook.headers, **headers},
                is_active=True,
                send_payload=True,
                send_for_all_actions=True,
            )

    def delete_webhook(self, webhook_id: int) -> None:
        """Delete a webhook."""
        with self._raising_our_errors():
            self._sdk.webhooks.delete(webhook_id)

    def first_task(self, project_id: LabelStudioId) -> AnnotatedTask | None:
        """The task with the lowest id; None if the project has no task."""
        tasks = self.tasks_after(project_id, 0, page_size=1).tasks
        return tasks[0] if tasks else None

    def tasks_after(
        self,
        project_id: LabelStudioId,
        last_id: int,
        *,
        only_unlabeled: bool = False,
        page_size: int = TASKS_PER_PAGE,
    ) -> TaskPage:
        """The next tasks in the order of their ids.

        Args:
            last_id: the tasks have ids greater than this one.
            only_unlabeled: only tasks without an annotation; a skip does not count as an annotation.
        """
        filters = [_equal("total_annotations", 0)] if only_unlabeled else []
        return self._page(project_id, [_more_than("id", last_id), *filters], page_size)

    def tasks_of(self, project_id: LabelStudioId, task_ids: Sequence[int]) -> list[AnnotatedTask]:
        """The tasks with these ids, in the order of their ids; ids that do not exist are left out."""
        selected = {"all": False, "included": list(task_ids)}
        return self._page(project_id, [], len(task_ids), selectedItems=selected).tasks if task_ids else []

    def open_tasks_by_score(self, project_id: LabelStudioId, page_size: int) -> TaskPage:
        """The tasks without an annotation in the order of Label Studio's column "Prediction score", lowest first.

        Tasks without a score come last.
        """
        ordering = ["tasks:predictions_score"]
        return self._page(project_id, [_equal("total_annotations", 0)], page_size, ordering=ordering)

    def add_predictions(self, project_id: LabelStudioId, predictions: Sequence[NewPrediction]) -> None:
        """Add predictions: all of them or, on an error, none. Label Studio adds up to 500 in one transaction."""
        rows = [
            PredictionRequest(
                task=prediction.task_id,
                result=prediction.result,
                score=prediction.score,
                model_version=prediction.model_version,
            )
            for prediction in predictions
        ]
        with self._raising_our_errors():
            self._sdk.projects.import_predictions(project_id, request=rows)

    def delete_predictions(self, project_id: LabelStudioId, model_version: str) -> None:
        """Delete all predictions of a version. Label Studio also sets the project's `model_version` to null."""
        path = f"/api/projects/{project_id}/model-versions/"
        self.call("DELETE", path, json={"model_version": model_version})

    def delete_prediction(self, prediction_id: int) -> None:
        """Delete a prediction. It is no error if there is no such prediction any more."""
        try:
            self.call("DELETE", f"/api/predictions/{prediction_id}/")
        except LabelStudioRefusedError as error:
            if error.status_code != httpx.codes.NOT_FOUND:
                raise

    def tasks(self, project_id: LabelStudioId) -> Iterator[AnnotatedTask]:
        """All tasks, in the order of their ids."""
        return self._pages(project_id, [])

    def annotated_tasks(
        self, project_id: LabelStudioId, changed_since: datetime | None = None
    ) -> Iterator[AnnotatedTask]:
        """All tasks with an annotation or a skip, each once; first those with an annotation.

        Args:
            changed_since: only tasks that were changed at this time of Label Studio's clock or later. A task is
                changed when an annotation of it is created, changed or deleted, one at a time or imported. It is
                not changed when an annotation is propagated to it.
        """
        seen: set[int] = set()
        is_changed = [] if changed_since is None else [_not_before("updated_at", changed_since)]
        for counter in ("total_annotations", "cancelled_annotations"):
            for task in self._pages(project_id, [_more_than(counter, 0), *is_changed]):
                if task.task_id not in seen:
                    seen.add(task.task_id)
                    yield task

    def count_annotations(self, project_id: LabelStudioId) -> int:
        """How many annotations a project has, without skips, as Label Studio counts them."""
        return self._page(project_id, [], page_size=1).annotations

    def has_annotation(self, annotation_id: int) -> bool:
        """Whether Label Studio has an annotation with this id."""
        try:
            self.call("GET", f"/api/annotations/{annotation_id}/")
        except LabelStudioRefusedError as error:
            if error.status_code == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    def call(self, method: str, path: str, *, timeout_s: float | None = None, **request: Any) -> Any:
        """Send a request that the SDK has no method for.

        Args:
            path: path and query, from `/` on.
            timeout_s: None for the client's own.
            request: further arguments of `httpx.Client.request` (`json`, `files`, ...).

        Returns:
            The answer, decoded from JSON.
        """
        if timeout_s is not None:
            request["timeout"] = timeout_s
        return _json(self._send(method, path, **request))

    def _pages(self, project_id: LabelStudioId, filters: list[dict[str, Any]]) -> Iterator[AnnotatedTask]:
        """Request each page by the last task's id, not by page number: no task is skipped when others are added or
        deleted meanwhile."""
        last_id = 0
        while (page := self._page(project_id, [_more_than("id", last_id), *filters], TASKS_PER_PAGE)).tasks:
            yield from page.tasks
            if len(page.tasks) >= page.total:
                return
            last_id = page.tasks[-1].task_id

    def _page(
        self, project_id: LabelStudioId, filters: list[dict[str, Any]], page_size: int, **query: Any
    ) -> TaskPage:
        """With `fields=all`: without it, Label Studio cuts the list of model versions off after 500 characters."""
        task_query = {"filters": {"conjunction": "and", "items": filters}, "ordering": ["tasks:id"], **query}
        answer = self.call(
            "GET",
            "/api/tasks/",
            params={
                "project": project_id,
                "fields": "all",
                "page_size": page_size,
                "query": json.dumps(task_query),
            },
        )
        tasks = [AnnotatedTask.of(task) for task in answer["tasks"]]
        return TaskPage(tasks, answer["total"], answer["total_annotations"])

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._raising_our_errors():
            answer = self._http.request(method, self.url + path, **request)
        if answer.is_redirect:
            location = answer.headers.get("Location", "")[:200]
            detail = f"a redirect to {location!r}; is that its address, or the login page of a proxy?"
            raise self._refusal(answer.status_code, detail)
        if not answer.is_success:
            is_json = answer.headers.get("Content-Type", "").startswith("application/json")
            raise self._refusal(answer.status_code, _json(answer) if is_json else answer.text)
        return answer

    @contextmanager
    def _raising_our_errors(self) -> Iterator[None]:
        """Turn errors of httpx and the SDK into LabelStudioError."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from error
        except ApiError as error:
            raise self._refusal(error.status_code or 0, error.body) from error

    def _refusal(self, status_code: int, body: Any) -> LabelStudioRefusedError:
        detail = explanation(body)
        message = f"Label Studio at {self.url} answered {status_code}: {detail}"
        if status_code == httpx.codes.UNAUTHORIZED:
            message = message.removesuffix(".")
            message += f"; the token is missing, wrong or of a kind that is not allowed: {NEW_TOKEN}"
        return LabelStudioRefusedError(message, status_code=status_code, detail=detail)


def _auth_columns(auth: tuple[str, str] | None) -> dict[str, Any]:
    if auth is None:
        return {"auth_method": "NONE"}
    return {"auth_method": "BASIC_AUTH", "basic_auth_user": auth[0], "basic_auth_pass": auth[1]}


def _more_than(column: str, value: int) -> dict[str, Any]:
    return {"filter": f"filter:tasks:{column}", "operator": "greater", "type": "Number", "value": value}


def _not_before(column: str, time: datetime) -> dict[str, Any]:
    """Label Studio reads times of this format only, as UTC."""
    value = time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"filter": f"filter:tasks:{column}", "operator": "greater_or_equal", "type": "Datetime", "value": value}


def _equal(column: str, value: int) -> dict[str, Any]:
    return {**_more_than(column, value), "operator": "equal"}


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json() if answer.content else None
    except ValueError as error:
        raise LabelStudioError(
            f"{answer.request.url} answered {answer.status_code} with {shown(answer.text)}, expected JSON; "
            "is there a Label Studio at this address?"
        ) from error
