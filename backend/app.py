"""Creates the Flask app of the backend, which Label Studio and ML engineers use.

This module registers the routes of the `*_routes` modules, counts and logs requests, and maps exceptions to status
codes.
"""

import logging
import time
from typing import Any

from flask import Flask, Response, g, jsonify, request
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from backend import (
    acceptance_routes,
    bulk_run_routes,
    comparison_routes,
    explanation_routes,
    forget_routes,
    group_routes,
    instruction_routes,
    label_studio_routes,
    monitoring_routes,
    openapi,
    project_routes,
    rule_routes,
    search_routes,
    traffic,
    version_routes,
)
from backend.label_studio_routes import PREDICT_PATH
from backend.pages import routes as page_routes
from backend.pages.forms import refuse_other_sites
from backend.services import EXTENSION, Services, services
from lorabel.database.store import is_schema_missing, reason_of
from lorabel.errors import (
    BadRequestError,
    ConflictError,
    DatabaseUnusableError,
    ForbiddenFormError,
    ForgedEventError,
    LabelStudioError,
    LorabelError,
    ModelServerBusyError,
    ModelServerError,
    NotFoundError,
    RedactionError,
    UnreadableError,
    cut,
)
from lorabel.http_server.plain_route import PlainAnswer, PlainRoute
from lorabel.inference.http_auth import is_allowed, require_basic_auth
from lorabel.settings import Settings

log = logging.getLogger(__name__)

STATUS_CODES: dict[type[Exception], int] = {
    BadRequestError: 400,
    ForgedEventError: 401,
    ForbiddenFormError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    UnreadableError: 422,
    ModelServerBusyError: 503,
    RedactionError: 503,
    OperationalError: 503,
    PoolTimeoutError: 503,
    DatabaseUnusableError: 503,
    ModelServerError: 502,
    LabelStudioError: 502,
    LorabelError: 500,
    Exception: 500,
}
NOT_MIGRATED = "the schema of the database is not that of this version of Lorabel; run `lorabel migrate`"
ROUTE_MODULES = (
    label_studio_routes,
    project_routes,
    acceptance_routes,
    bulk_run_routes,
    search_routes,
    explanation_routes,
    version_routes,
    comparison_routes,
    instruction_routes,
    rule_routes,
    group_routes,
    forget_routes,
    monitoring_routes,
    openapi,
)
# Key of the WSGI environment: `time.perf_counter` when the answering of a request began.
BEGAN_AT = "lorabel.began_at"
OPEN_PATHS = frozenset({"/livez"})
QUIET_PATHS = frozenset({"/livez", "/health", "/metrics"})


def create_app(settings: Settings) -> Flask:
    """Create the app. Opens the database and migrates it; nothing else is connected before a request needs it."""
    app = Flask("lorabel")
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_mb * 2**20
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions[EXTENSION] = Services.open(settings)
    _observe_requests(app)
    require_basic_auth(app, settings, OPEN_PATHS)
    app.before_request(refuse_other_sites)
    for blueprint in (*(module.blueprint for module in ROUTE_MODULES), page_routes.root, page_routes.blueprint):
        app.register_blueprint(blueprint)
    app.register_error_handler(RequestEntityTooLarge, _refuse_size)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_error)
    app.wsgi_app = _plain_predictions(app, settings)  # type: ignore[method-assign]
    return app


def _plain_predictions(app: Flask, settings: Settings) -> PlainRoute:
    """/predict without Flask, observed as all requests are. What comes from a browser goes to Flask, which checks
    the site that sent it."""

    def answer(body: bytes, environ: dict[str, Any]) -> PlainAnswer:
        app_services: Services = app.extensions[EXTENSION]
        environ[BEGAN_AT] = time.perf_counter()
        prediction_answer = label_studio_routes.answer_prediction(app_services, body, environ)
        seconds = time.perf_counter() - environ[BEGAN_AT]
        _observe(app_services, "POST", PREDICT_PATH, PREDICT_PATH, 200, seconds)
        return prediction_answer

    def is_plain(environ: dict[str, Any]) -> bool:
        return "HTTP_SEC_FETCH_SITE" not in environ and is_allowed(environ, settings)

    return PlainRoute(app, PREDICT_PATH, answer, is_plain)


def _observe_requests(app: Flask) -> None:
    """Count, time and log every request."""

    @app.before_request
    def start() -> None:
        g.started_at = request.environ.get(BEGAN_AT) or time.perf_counter()

    @app.after_request
    def observe(answer: Response) -> Response:
        seconds = time.perf_counter() - g.started_at
        endpoint = request.url_rule.rule if request.url_rule else "unknown"
        _observe(services(), request.method, request.path, endpoint, answer.status_code, seconds)
        return answer


def _observe(
    app_services: Services, method: str, path: str, endpoint: str, status_code: int, seconds: float
) -> None:
    if endpoint == traffic.ENDPOINT:
        app_services.traffic.add(seconds, status_code)
    metrics = app_services.metrics
    metrics.requests.labels(endpoint, status_code).inc()
    metrics.request_seconds.labels(endpoint).observe(seconds)
    level = logging.DEBUG if path in QUIET_PATHS else logging.INFO
    log.log(level, "%s %s %d %.0f ms", method, path, status_code, seconds * 1000)


def _answer_error(error: Exception) -> Response:
    status = next(STATUS_CODES[kind] for kind in type(error).__mro__ if kind in STATUS_CODES)
    if isinstance(error, LorabelError):
        log.warning("%s %s: %s", request.method, request.path, error)
        answer = jsonify(error=cut(str(error)))
    elif isinstance(error, DBAPIError) and is_schema_missing(error):
        log.error("%s %s: %s; %s", request.method, request.path, NOT_MIGRATED, reason_of(error))
        answer, status = jsonify(error=NOT_MIGRATED), 500
    elif status == 503:
        reason = reason_of(error) if isinstance(error, OperationalError) else str(error)
        log.error("%s %s: the database cannot be used now: %s", request.method, request.path, reason)
        answer = jsonify(error="the database cannot be used now; the log has the reason")
    else:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        answer = jsonify(error=f"our fault: {type(error).__name__}; the log has more")
    if isinstance(error, ModelServerBusyError):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    answer.status_code = status
    return answer


def _refuse_size(_: RequestEntityTooLarge) -> tuple[Response, int]:
    limit_mb = services().settings.max_request_mb
    log.warning("%s %s: larger than %d MB", request.method, request.path, limit_mb)
    return jsonify(error=f"the request is larger than {limit_mb} MB; MAX_REQUEST_MB sets the limit"), 413


def _answer_http_error(error: HTTPException) -> tuple[Response, int]:
    return jsonify(error=error.description or error.name), error.code or 500
