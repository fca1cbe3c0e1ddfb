import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from backend import openapi
from backend.operations import OPERATIONS
from tests.backend import requests
from tests.backend.test_webhook_events import EVENTS


@pytest.fixture
def document(client: FlaskClient) -> dict[str, Any]:
    return dict(client.get("/api/v1/openapi.json").json)


def test_the_description_is_valid_openapi(document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_endpoint_but_pages_is_described_and_no_other(app: Flask, document: dict[str, Any]) -> None:
    served = {
        (re.sub(r"<(?:[^:<>]+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint != "static" and rule.endpoint.partition(".")[0] not in ("root", "pages")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == served


def test_the_fields_of_a_query_are_described(document: dict[str, Any]) -> None:
    events = document["paths"]["/api/v1/events"]["get"]
    assert [parameter["name"] for parameter in events["parameters"]] == ["limit", "offset", "state"]


def test_only_livez_needs_no_password(document: dict[str, Any]) -> None:
    open_paths = [
        path
        for path, operations in document["paths"].items()
        for operation in operations.values()
        if "security" in operation
    ]
    assert open_paths == ["/livez"]


REQUESTS = [
    ("get", "/health", None),
    ("post", "/setup", requests.setup()),
    ("post", "/predict", requests.predict(requests.task(1), requests.task(2, "http://p.test/forbidden.png"))),
    ("post", "/webhook", requests.event("START_TRAINING")),
    ("post", "/webhook", requests.event("TASKS_DELETED", **EVENTS["TASKS_DELETED"])),
    ("get", "/versions", None),
    ("get", "/api/v1/projects", None),
    ("get", "/api/v1/projects/1", None),
    ("get", "/api/v1/projects/1/versions", None),
    ("get", "/api/v1/projects/1/versions/v0", None),
    ("get", "/api/v1/projects/1/versions/v0/compare", None),
    ("get", "/api/v1/projects/1/runs", None),
    ("get", "/api/v1/projects/1/annotations", None),
    ("get", "/api/v1/events", None),
    ("get", "/api/v1/projects/1/search?q=red", None),
    ("get", "/api/v1/projects/1/search", None),
    ("get", "/api/v1/projects/1/tasks/1/explanation?label=red", None),
    ("get", "/api/v1/projects/2/search?task=1", None),
    ("post", "/api/v1/projects/1/train", None),
    ("post", "/api/v1/projects/1/preannotate", {"task_ids": [1]}),
    ("post", "/api/v1/projects/1/label-errors", None),
    ("get", "/api/v1/projects/1/label-errors", None),
    ("post", "/api/v1/projects/1/index", None),
    ("post", "/api/v1/projects/1/acceptances", {"precision": 0.9}),
    ("post", "/api/v1/projects/1/acceptances", {"precision": 1.5}),
    ("get", "/api/v1/projects/1/acceptances", None),
    ("post", "/api/v1/projects/1/acceptances/1/undo", None),
    ("get", "/api/v1/projects/1/preannotations", None),
    ("get", "/api/v1/projects/1/preannotations/1", None),
    ("post", "/api/v1/projects/1/preannotations/1/cancel", None),
    ("get", "/api/v1/projects/1/instructions", None),
    ("put", "/api/v1/projects/1/instructions", {"instructions": {"label": "Which?", "other": None}}),
    ("put", "/api/v1/projects/1/instructions", {"instructions": ["label"]}),
    ("post", "/api/v1/projects/1/promote", {"version": 0}),
    ("post", "/api/v1/projects/1/rollback", None),
    ("get", "/api/v1/projects/2", None),
    ("post", "/predict", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS, ids=[f"{m} {p}" for m, p, _ in REQUESTS])
def test_answers_fit_their_description(
    client: FlaskClient, document: dict[str, Any], method: str, path: str, body: Any
) -> None:
    client.post("/setup", json=requests.setup())
    answer = client.open(path, method=method.upper(), json=body)
    assert answer.status_code != 500
    template = re.sub(r"/projects/\d", "/projects/{project_id}", path).replace("/v0", "/{version}")
    template = template.replace("/tasks/1/", "/tasks/{task_id}/")
    template = template.replace("/preannotations/1", "/preannotations/{run_id}").replace(
        "/acceptances/1", "/acceptances/{acceptance_id}"
    )
    described = document["paths"][template.partition("?")[0]][method]["responses"]
    schema = described[str(answer.status_code)]["content"]["application/json"]["schema"]
    Draft202012Validator(schema | {"components": document["components"]}).validate(answer.json)


def test_every_status_code_of_an_error_has_a_description() -> None:
    codes = {code for operation in OPERATIONS for code in operation.errors} | {401, 500}
    assert codes == openapi.DESCRIPTIONS.keys()
