"""A fake of Label Studio 1.23.2 on a real socket, with the part of its API that the tests need."""

import base64
import json
import math
import operator
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lorabel.database.tables import now
from tests.serving import serving

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


def make_jwt(**claims: Any) -> str:
    """A JWT with these claims. The signature is not valid, since only Label Studio verifies tokens."""
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


PERSONAL_TOKEN = make_jwt(token_type="refresh", exp=8_000_000_000, iat=1_700_000_000)


class FakeLabelStudio:
    """Label Studio with one project, whose id is 1.

    Attributes:
        tasks: the project's tasks as the API shows them.
        exchanges: how many access tokens were given for the personal access token.
        lifetime_s: seconds for which an access token is valid.
        requests: paths of all requests.
        authorizations: Authorization headers of all requests.
        url: address of the server; `serve` sets it.
        sampling: the project's sampling until a request changes it.
        settings: the project's settings that requests have changed.
        backends: the project's ML backends.
        import_sizes: number of predictions in each import that was accepted.
        import_statuses: status codes with which the next imports are refused.
        created_at: when the project was created, as the API says it.
        change_statuses: status codes with which the next changes of settings are refused.
        delete_statuses: status codes with which the next deletions of a prediction are refused.
        date: the Date header of answers; None for the time.
        version: the answer to /api/version.
        redirects: by path the address to which it leads.
        last_prediction_id: id of the newest prediction that was imported.
        webhooks: the project's webhooks.
        webhook_fault: why Label Studio refuses a new webhook; None if it takes it.
        backend_fault: why Label Studio refuses a new backend; None if it takes it.
    """

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.exchanges = 0
        self.lifetime_s = 300
        self.personal_token = PERSONAL_TOKEN
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.url = ""
        self.sampling = "Sequential sampling"
        self.import_sizes: list[int] = []
        self.import_statuses: list[int] = []
        self.backends: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.created_at = "2026-11-22T05:12:01.772489Z"
        self.change_statuses: list[int] = []
        self.delete_statuses: list[int] = []
        self.last_prediction_id = 0
        self.date: str | None = None
        self.version: Any = {"release": "1.23.2"}
        self.redirects: dict[str, str] = {}
        self.webhooks: list[dict[str, Any]] = []
        self.webhook_fault: str | None = None
        self.backend_fault: str | None = None

    def answer(self, method: str, url: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        """Status code and body of the answer to a request; a body that is a string is HTML."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.requests.append(path)
        self.authorizations.append(authorization)
        if path == "/api/token/refresh/":
            return self._exchange(body)
        if path == "/api/version":
            return 200, self.version
        if path == "/api/current-user/whoami":
            if authorization == f"Token {LEGACY_TOKEN}" or self._has_access(authorization):
                return 200, {"id": 1, "email": "annotator@example.com"}
            return 401, {"detail": "legacy token authentication has been disabled"}
        if path == "/api/tasks/":
            return 200, self._page(json.loads(query["query"][0]), int(query["page_size"][0]))
        if path.endswith("/import/predictions"):
            return (self.import_statuses.pop(0), {"detail": "no"}) if self.import_statuses else self._import(body)
        if path == "/api/ml/":
            is_refused = method == "POST" and self.backend_fault is not None
            return (403, {"detail": self.backend_fault}) if is_refused else (200, self.backends)
        if path == "/api/projects/":
            ids = query["ids"][0].split(",") if "ids" in query else ["1"]
            rows = self._projects(ids, query["include"][0].split(","))
            return 200, {"count": len(rows), "results": rows}
        return self._answer_about_one(method, path, body, authorization)

    def _answer_about_one(self, method: str, path: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        """The answer to a request about a single file, prediction or project."""
        if method == "DELETE" and path.startswith("/api/predictions/"):
            return self._delete_prediction(int(path.split("/")[3]))
        if path.startswith("/data/upload/"):
            return (200, "a file") if self._has_access(authorization) else (401, {"detail": "no token"})
        if path.startswith("/api/webhooks/"):
            return self._webhook(method, body)
        if path.endswith("/predict/test"):
            return 200, {"task": {"id": self.tasks[0]["id"]}, "response": []}
        if path.startswith("/api/projects/1/"):
            return self._project(path, body)
        return 404, "<!doctype html><title>404 | Label Studio</title>"

    def _webhook(self, method: str, body: Any) -> tuple[int, Any]:
        if method == "GET":
            return 200, self.webhooks
        if self.webhook_fault is not None:
            return 403, {"detail": self.webhook_fault}
        self.webhooks.append({"id": len(self.webhooks) + 1, "is_active": True, **body})
        return 201, self.webhooks[-1]

    def _exchange(self, body: Any) -> tuple[int, Any]:
        if body["refresh"] != self.personal_token:
            return 401, {"detail": "Token is invalid"}
        self.exchanges += 1
        time.sleep(0.05)
        return 200, {"access": self._access(self.exchanges)}

    def _has_access(self, authorization: str | None) -> bool:
        """Each token that was made is valid, whoever got others since."""
        return authorization in {f"Bearer {self._access(number)}" for number in range(1, self.exchanges + 1)}

    def _access(self, number: int) -> str:
        return make_jwt(token_type="access", iat=1_000, exp=1_000 + self.lifetime_s, jti=number)

    def _page(self, query: dict[str, Any], size: int) -> dict[str, Any]:
        tasks = sorted(self.tasks, key=lambda task: int(task["id"]))
        for task_filter in query["filters"]["items"]:
            column = task_filter["filter"].rsplit(":", 1)[1]
            matches = operator.gt if task_filter["operator"] == "greater" else operator.eq
            tasks = [task for task in tasks if matches(task[column], task_filter["value"])]
        if selected := query.get("selectedItems"):
            tasks = [task for task in tasks if task["id"] in selected["included"]]
        if query["ordering"] == ["tasks:predictions_score"]:
            tasks.sort(key=_mean_score)
        annotation_count = sum(task.get("total_annotations", 0) for task in tasks)
        return {"tasks": tasks[:size], "total": len(tasks), "total_annotations": annotation_count}

    def _projects(self, ids: list[str], fields: list[str]) -> list[dict[str, Any]]:
        project = self._project("", None)[1]
        return [{name: project.get(name) for name in fields}] if "1" in ids else []

    def _project(self, path: str, change: dict[str, Any] | None) -> tuple[int, Any]:
        if path.endswith("/model-versions/"):
            return 200, self._delete_predictions((change or {})["model_version"])
        if change and self.change_statuses:
            return self.change_statuses.pop(0), {"detail": "no"}
        self.settings |= change or {}
        project = {"id": 1, "created_at": self.created_at, "sampling": self.sampling, "label_config": "<View/>"}
        return 200, {"title": "", **project, **self.settings}

    def _delete_predictions(self, version: str) -> dict[str, Any]:
        for task in self.tasks:
            predictions = task["predictions"]
            task["predictions"] = [row for row in predictions if row["model_version"] != version]
        self.settings["model_version"] = None
        return {"deleted_predictions": 0}

    def _delete_prediction(self, prediction_id: int) -> tuple[int, Any]:
        if self.delete_statuses:
            return self.delete_statuses.pop(0), {"detail": "no"}
        for task in self.tasks:
            if any(row["id"] == prediction_id for row in task["predictions"]):
                task["predictions"] = [row for row in task["predictions"] if row["id"] != prediction_id]
                return 204, None
        return 404, {"detail": "not found"}

    def _import(self, predictions: list[dict[str, Any]]) -> tuple[int, Any]:
        tasks_by_id = {task["id"]: task for task in self.tasks}
        if not {prediction["task"] for prediction in predictions} <= tasks_by_id.keys():
            return 400, {"detail": 'contains invalid "task" field'}
        for prediction in predictions:
            self.last_prediction_id += 1
            tasks_by_id[prediction["task"]]["predictions"].append(
                {"id": self.last_prediction_id, "created_at": now().isoformat(), **prediction}
            )
        self.import_sizes.append(len(predictions))
        return 201, {"created": len(predictions)}


def _mean_score(task: dict[str, Any]) -> float:
    """Tasks without a prediction come last."""
    scores = [row["score"] for row in task["predictions"]]
    return sum(scores) / len(scores) if scores else math.inf


@contextmanager
def serve(fake: FakeLabelStudio, tls: ssl.SSLContext | None = None) -> Iterator[None]:
    """Let a fake answer requests on a free port of 127.0.0.1 until the block ends; with `tls` over TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            received = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(received) if received else None
            status, answer = fake.answer(self.command, self.path, body, self.headers.get("Authorization"))
            encoded = (
                b"" if status == 204 else (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            )
            self.send_response(302 if self.path in fake.redirects else status)
            if self.path in fake.redirects:
                self.send_header("Location", fake.redirects[self.path])
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - the names that BaseHTTPRequestHandler looks for

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(timestamp) if fake.date is None else fake.date

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    fake.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}"
    with serving(server):
        yield
