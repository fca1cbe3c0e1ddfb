"""As much of Label Studio 1.23.2's API as its client needs in tests; it answers over a real socket."""

import base64
import json
import operator
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


def make_jwt(**claims: Any) -> str:
    """Unsigned: only Label Studio itself verifies its tokens."""
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


PERSONAL_TOKEN = make_jwt(token_type="refresh", exp=8_000_000_000, iat=1_700_000_000)


class FakeLabelStudio:
    """Attributes: `tasks` as the API shows them; `exchanges` counts tokens given; `requests` are paths asked.

    `imports` are the sizes of bulk imports of predictions; `statuses` are answered to the next ones instead.
    `backends` are those of project 1, `settings` what is changed in it; `refusals` are answered to changes first.
    """

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.exchanges = 0
        self.life_s = 300
        self.accepted = PERSONAL_TOKEN
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.url = ""
        self.sampling = "Sequential sampling"
        self.imports: list[int] = []
        self.statuses: list[int] = []
        self.backends: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.refusals: list[int] = []

    def answer(self, method: str, url: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        self.requests.append(path)
        self.authorizations.append(authorization)
        if path == "/api/token/refresh/":
            return self._exchange(body)
        if path == "/api/version":
            return 200, {"release": "1.23.2"}
        if path == "/api/current-user/whoami":
            if authorization in (f"Token {LEGACY_TOKEN}", f"Bearer {self._access()}"):
                return 200, {"id": 1, "email": "annotator@example.com"}
            return 401, {"detail": "legacy token authentication has been disabled"}
        if path == "/api/tasks/":
            return 200, self._page(json.loads(query["query"][0]), int(query["page_size"][0]))
        if path.endswith("/import/predictions"):
            return (self.statuses.pop(0), {"detail": "no"}) if self.statuses else self._import(body)
        if path == "/api/ml/":
            return 200, self.backends
        if path.startswith("/api/projects/1/") and self.tasks:
            return self._project(path, body)
        return 404, "<!doctype html><title>404 | Label Studio</title>"

    def _exchange(self, body: Any) -> tuple[int, Any]:
        if body["refresh"] != self.accepted:
            return 401, {"detail": "Token is invalid"}
        self.exchanges += 1
        time.sleep(0.05)
        return 200, {"access": self._access()}

    def _access(self) -> str:
        return make_jwt(token_type="access", iat=1_000, exp=1_000 + self.life_s, jti=self.exchanges)

    def _page(self, query: dict[str, Any], size: int) -> dict[str, Any]:
        found = sorted(self.tasks, key=lambda task: int(task["id"]))
        for wanted in query["filters"]["items"]:
            column = wanted["filter"].rsplit(":", 1)[1]
            fits = operator.gt if wanted["operator"] == "greater" else operator.eq
            found = [task for task in found if fits(task[column], wanted["value"])]
        if selected := query.get("selectedItems"):
            found = [task for task in found if task["id"] in selected["included"]]
        return {"tasks": found[:size], "total": len(found)}

    def _project(self, path: str, change: dict[str, Any] | None) -> tuple[int, Any]:
        if path.endswith("/model-versions/"):
            return 200, self._delete_predictions((change or {})["model_version"])
        if change and self.refusals:
            return self.refusals.pop(0), {"detail": "no"}
        self.settings |= change or {}
        return 200, {"id": 1, "sampling": self.sampling, "label_config": "<View/>", **self.settings}

    def _delete_predictions(self, version: str) -> dict[str, Any]:
        for task in self.tasks:
            task["predictions"] = [one for one in task["predictions"] if one["model_version"] != version]
        self.settings["model_version"] = None
        return {"deleted_predictions": 0}

    def _import(self, predictions: list[dict[str, Any]]) -> tuple[int, Any]:
        by_id = {task["id"]: task for task in self.tasks}
        if not {one["task"] for one in predictions} <= by_id.keys():
            return 400, {"detail": 'contains invalid "task" field'}
        for one in predictions:
            by_id[one["task"]]["predictions"].append(one)
        self.imports.append(len(predictions))
        return 201, {"created": len(predictions)}


@contextmanager
def serve(fake: FakeLabelStudio) -> Iterator[None]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(sent) if sent else None
            status, answer = fake.answer(self.command, self.path, body, self.headers.get("Authorization"))
            encoded = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        do_GET = do_POST = do_PATCH = do_DELETE = respond  # noqa: N815 - the names that BaseHTTPRequestHandler looks for

        def log_message(self, *args: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
