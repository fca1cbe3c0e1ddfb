"""The OpenAPI 3.1 description of every endpoint, from the models that read and write the bodies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from flask import Blueprint
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backend import http_bodies, rest_records

blueprint = Blueprint("openapi", __name__)
Json = dict[str, Any]
REFERENCE = "#/components/schemas/{model}"
PROJECT = "/api/v1/projects/{project_id}"
PAGE = ("limit", "offset")
NUMBERS = (*PAGE, "task")


@dataclass(frozen=True)
class Operation:
    """`answer` None is plain text or free JSON; `errors` are the codes beside 401 and 500."""

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None
    body: type[BaseModel] | None = None
    status: int = 200
    errors: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    is_open: bool = False
    content_type: str = field(default="application/json")


OPERATIONS = (
    Operation("get", "/health", "Label Studio asks whether we are there (1 s).", http_bodies.HealthAnswer),
    Operation(
        "post",
        "/setup",
        "Label Studio asks for the model version (3 s).",
        http_bodies.SetupAnswer,
        http_bodies.Setup,
        errors=(400, 413),
    ),
    Operation(
        "post",
        "/validate",
        "What is served of a label config, and why not the rest.",
        rest_records.ServedRecord,
        http_bodies.Validate,
        errors=(400, 413),
    ),
    Operation(
        "post",
        "/predict",
        "One prediction per task, in order (100 s).",
        http_bodies.PredictAnswer,
        http_bodies.Predict,
        errors=(400, 413, 502, 503),
    ),
    Operation(
        "post",
        "/webhook",
        "An event is stored, then applied by a job (1 s).",
        http_bodies.WebhookAnswer,
        http_bodies.Envelope,
        errors=(400, 413),
    ),
    Operation("get", "/versions", "Model versions of every project.", http_bodies.VersionsAnswer),
    Operation("get", "/livez", "For containers: no password needed.", None, is_open=True),
    Operation("get", "/metrics", "For Prometheus.", None, content_type="text/plain"),
    Operation("get", "/api/v1/openapi.json", "This description.", None),
    Operation("get", "/api/v1/projects", "Every project.", rest_records.ProjectList),
    Operation(
        "get", PROJECT, "One project, with what is wrong with it.", rest_records.ProjectRecord, errors=(404,)
    ),
    Operation("get", f"{PROJECT}/versions", "Versions, newest first.", rest_records.VersionList, errors=(404,)),
    Operation(
        "get",
        f"{PROJECT}/versions/{{version}}",
        "One version: `3`, `v3` or `p12.v3`.",
        rest_records.VersionRecord,
        errors=(404,),
    ),
    Operation("get", f"{PROJECT}/runs", "Training runs, newest first.", rest_records.RunList, errors=(404,)),
    Operation(
        "post",
        f"{PROJECT}/preannotate",
        "Predict many tasks and write the predictions back.",
        rest_records.BulkRunRecord,
        http_bodies.Preannotate,
        status=202,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "post",
        f"{PROJECT}/order",
        "Order the tasks without an annotation, for Label Studio's stream; a bulk run.",
        rest_records.BulkRunRecord,
        http_bodies.Order,
        status=202,
        errors=(400, 404, 409, 413),
    ),
    Operation(
        "get", f"{PROJECT}/preannotations", "Bulk runs, newest first.", rest_records.BulkRunList, errors=(404,)
    ),
    Operation(
        "get",
        f"{PROJECT}/preannotations/{{run_id}}",
        "One bulk run: how far it is, and what failed.",
        rest_records.BulkRunRecord,
        errors=(404,),
    ),
    Operation(
        "post",
        f"{PROJECT}/preannotations/{{run_id}}/cancel",
        "Stop a bulk run before its next page.",
        rest_records.BulkRunRecord,
        errors=(404, 409),
    ),
    Operation(
        "get",
        f"{PROJECT}/annotations",
        "The training set by annotation id.",
        rest_records.AnnotationList,
        errors=(400, 404),
        query=PAGE,
    ),
    Operation(
        "get",
        f"{PROJECT}/label-errors",
        "Annotations that are probably wrong, the worst first.",
        rest_records.LabelErrorList,
        errors=(404, 409, 502, 503),
    ),
    Operation(
        "get",
        "/api/v1/events",
        "Webhook events, newest first.",
        rest_records.EventList,
        errors=(400,),
        query=(*PAGE, "state"),
    ),
    Operation(
        "get",
        f"{PROJECT}/search",
        "Tasks like a text (`q`) or like another task (`task`), the most similar first.",
        rest_records.SearchRecord,
        errors=(400, 404, 409, 502, 503),
        query=("q", "task", "limit"),
    ),
    Operation("post", f"{PROJECT}/train", "Train now.", rest_records.RunRecord, status=202, errors=(404,)),
    Operation(
        "post",
        f"{PROJECT}/promote",
        "Make a version live.",
        rest_records.LiveVersion,
        http_bodies.Promote,
        errors=(400, 404, 413),
    ),
    Operation(
        "post",
        f"{PROJECT}/rollback",
        "Make the live version's parent live.",
        rest_records.LiveVersion,
        errors=(404, 409),
    ),
)


@blueprint.get("/api/v1/openapi.json")
def describe() -> Json:
    return document(OPERATIONS)


def document(operations: tuple[Operation, ...]) -> Json:
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lorabel", "version": version("lorabel")},
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}},
        },
        "security": [{"basic": []}],
    }


def _operation(operation: Operation) -> Json:
    answer = {"description": operation.summary, "content": _content(operation.answer, operation.content_type)}
    codes = (*operation.errors, *(() if operation.is_open else (401,)), 500)
    described: Json = {
        "summary": operation.summary,
        "operationId": f"{operation.method} {operation.path}",
        "parameters": _parameters(operation),
        "responses": {str(operation.status): answer} | {str(code): _error(code) for code in sorted(codes)},
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": _content(operation.body, "application/json")}
    if operation.is_open:
        described["security"] = []
    return described


def _content(model: type[BaseModel] | None, content_type: str) -> Json:
    if model is not None:
        return {content_type: {"schema": {"$ref": REFERENCE.format(model=model.__name__)}}}
    return {content_type: {"schema": {"type": "string" if content_type == "text/plain" else "object"}}}


def _error(code: int) -> Json:
    return {
        "description": DESCRIPTIONS[code],
        "content": _content(http_bodies.ErrorAnswer, "application/json"),
    }


DESCRIPTIONS: Mapping[int, str] = {
    400: "The request is malformed; nothing was stored.",
    401: "User and password are needed (BASIC_AUTH_USER, BASIC_AUTH_PASS).",
    404: "There is no such project, version or run.",
    409: "The state does not allow it; the answer says why.",
    413: "The request is too large (MAX_REQUEST_MB).",
    500: "Our fault; the log has more.",
    502: "The model server cannot be reached or failed.",
    503: "Busy; ask again after Retry-After seconds.",
}


def _parameters(operation: Operation) -> list[Json]:
    of_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": kind}}
        for name, kind in (("project_id", "integer"), ("version", "string"), ("run_id", "integer"))
        if f"{{{name}}}" in operation.path
    ]
    of_query = [
        {"name": name, "in": "query", "schema": {"type": "integer" if name in NUMBERS else "string"}}
        for name in operation.query
    ]
    return of_path + of_query


def _schemas(operations: tuple[Operation, ...]) -> Json:
    bodies = {operation.body for operation in operations if operation.body}
    answers = {operation.answer for operation in operations if operation.answer} | {http_bodies.ErrorAnswer}
    wanted = [(model, "validation") for model in bodies] + [(model, "serialization") for model in answers]
    wanted.sort(key=lambda one: one[0].__name__)
    _, definitions = models_json_schema(wanted, ref_template=REFERENCE)  # type: ignore[arg-type]
    return dict(definitions["$defs"])
