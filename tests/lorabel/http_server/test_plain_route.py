"""A plain route answers what is usual, and leaves all else to Flask with its hooks and handlers."""

import gc
import weakref
from typing import Any, ClassVar

import pytest
from flask import Flask, Response, jsonify, request
from flask.testing import FlaskClient

from lorabel.http_server.plain_route import PlainAnswer, PlainRoute, raise_failure


class Served:
    """An app with a plain route. `plain` and `usual` have the bodies that each has answered, `sent` those
    that were sent, and `hooked` the paths that Flask's hooks have seen."""

    def __init__(self) -> None:
        self.plain: list[bytes] = []
        self.usual: list[bytes] = []
        self.sent: list[bytes] = []
        self.hooked: list[str] = []
        self.app = Flask(__name__)
        self.app.config["MAX_CONTENT_LENGTH"] = 10
        self.app.before_request(lambda: self.hooked.append(request.path))
        self.app.register_error_handler(KeyError, lambda error: (jsonify(error=str(error)), 409))
        self.app.add_url_rule("/x", view_func=self._view, methods=["POST"])
        self.app.wsgi_app = PlainRoute(  # type: ignore[method-assign]
            self.app, "/x", self._answer, lambda environ: "HTTP_ODD" not in environ
        )

    def _view(self) -> Response:
        raise_failure()
        self.usual.append(request.get_data())
        return jsonify(by="flask")

    def _answer(self, body: bytes, environ: dict[str, Any]) -> PlainAnswer:
        if body == b"fail":
            raise KeyError("failed")
        self.plain.append(body)
        return PlainAnswer(b'{"by":"plain"}', (lambda: self.sent.append(body)) if body == b"tell" else None)


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def client(served: Served) -> FlaskClient:
    return served.app.test_client()


def test_a_usual_request_goes_past_flask(served: Served, client: FlaskClient) -> None:
    answer = client.post("/x", data=b"body")
    assert (answer.status_code, answer.json, answer.content_type) == (200, {"by": "plain"}, "application/json")
    assert answer.headers["Content-Length"] == "14"
    assert (served.plain, served.hooked) == ([b"body"], [])


def test_what_comes_after_the_answer_is_done_when_it_was_sent(served: Served, client: FlaskClient) -> None:
    answer = client.post("/x", data=b"tell", buffered=False)
    assert served.sent == []
    answer.close()
    assert served.sent == [b"tell"]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"headers": {"Odd": "1"}}, 200),
        ({"headers": {"Transfer-Encoding": "chunked"}}, 200),
        ({"data": b"more than ten bytes"}, 413),
        ({"method": "GET"}, 405),
        ({"path": "/y"}, 404),
    ],
)
def test_an_unusual_request_goes_to_flask(
    served: Served, client: FlaskClient, options: dict[str, Any], status: int
) -> None:
    answer = client.open(**{"path": "/x", "method": "POST", "data": b"body", **options})
    assert answer.status_code == status
    assert served.plain == []
    assert len(served.hooked) == 1


def test_a_failure_is_answered_by_flask_once(served: Served, client: FlaskClient) -> None:
    answer = client.post("/x", data=b"fail")
    assert (answer.status_code, answer.json) == (409, {"error": "'failed'"})
    assert (served.plain, served.usual, served.hooked) == ([], [], ["/x"])


def test_a_request_that_failed_leaves_nothing_in_memory() -> None:
    """Before, the exception and the request held each other until the next full collection of garbage."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 10
    app.register_error_handler(OddError, lambda error: (str(error), 409))
    app.add_url_rule("/x", view_func=raise_failure, methods=["POST"])

    def fail(body: bytes, environ: dict[str, Any]) -> PlainAnswer:
        raise OddError("failed")

    app.wsgi_app = PlainRoute(app, "/x", fail, lambda environ: True)  # type: ignore[method-assign]
    gc.disable()
    try:
        answer = app.test_client().post("/x", data=b"body")
        assert (answer.status_code, answer.text) == (409, "failed")
        answer.close()
        del answer
        assert [error() for error in OddError.raised] == [None]
    finally:
        gc.enable()


class OddError(Exception):
    raised: ClassVar[list["weakref.ref[OddError]"]] = []

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.raised.append(weakref.ref(self))
