"""The OpenAPI 3.1 description of every endpoint, made from the pydantic models of the bodies."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from flask import Blueprint
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from backend import http_bodies
from backend.operations import OPERATIONS, PAGE, Operation

blueprint = Blueprint("openapi", __name__)
Json = dict[str, Any]
REFERENCE = "#/components/schemas/{model}"
NUMBERS = (*PAGE, "task")


@blueprint.get("/api/v1/openapi.json")
def describe() -> Json:
    """The OpenAPI description of this backend."""
    return document(OPERATIONS)


def document(operations: tuple[Operation, ...]) -> Json:
    """The OpenAPI document that describes these operations."""
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
    401: "User and password are needed (BASIC_AUTH_USER, BASIC_AUTH_PASS), or the secret of a project's webhook.",
    404: "There is no such project, version or run.",
    409: "The project's state does not allow it; the answer says why.",
    413: "The request is too large (MAX_REQUEST_MB).",
    500: "A fault of Lorabel; the log says more.",
    502: "The model server cannot be reached or failed.",
    503: "Busy; ask again after Retry-After seconds.",
}


def _parameters(operation: Operation) -> list[Json]:
    of_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": kind}}
        for name, kind in (
            ("project_id", "integer"),
            ("version", "string"),
            ("run_id", "integer"),
            ("acceptance_id", "integer"),
            ("task_id", "integer"),
        )
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
    models = [(model, "validation") for model in bodies] + [(model, "serialization") for model in answers]
    models.sort(key=lambda model_and_mode: model_and_mode[0].__name__)
    _, definitions = models_json_schema(models, ref_template=REFERENCE)  # type: ignore[arg-type]
    return dict(definitions["$defs"])
