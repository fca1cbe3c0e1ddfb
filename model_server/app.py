"""The model server's HTTP API, internal to Lorabel. Bodies are JSON, defined in `lorabel.inference.messages`.

POST /v1/predict    PredictRequest -> PredictResponse, one result per row in the same order; the body is described
                    in `lorabel.inference.request_body`
POST /v1/preload    PreloadRequest: load adapters before the first prediction needs them
POST /v1/families   FamiliesRequest -> FamiliesResponse: who would answer kinds of questions; loads nothing
GET  /v1/models     ModelsResponse: device, families and adapters that are loaded
GET  /health        200 while all threads of the engine run, else 500; /livez is the same without a password
GET  /metrics       Prometheus text format

Errors are `{"error": reason}` with 400 (invalid body), 401 (password), 404 (no such adapter), 409 (the adapter
does not fit its family), 413 (too many bytes or rows) or 503 with Retry-After (too many rows wait).
"""

import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from flask import Flask, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import (
    BadRequestError,
    ModelServerBusyError,
    NotFoundError,
    RequestTooLargeError,
    UnreadableError,
)
from lorabel.families.base import Family
from lorabel.families.cache import DECODED, EMBEDDINGS, FEATURES, TEXTS, FeatureCache
from lorabel.families.device import choose_device
from lorabel.families.generation.remote import RemoteGenerator
from lorabel.families.generator import Generator
from lorabel.families.loading import families_named
from lorabel.families.served import load_served, served_precision
from lorabel.http_server.plain_route import PlainAnswer, PlainRoute, raise_failure
from lorabel.inference import request_body
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.http_auth import is_allowed, require_basic_auth
from lorabel.inference.messages import (
    FamiliesRequest,
    FamiliesResponse,
    FamilyInfo,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PreloadRequest,
    RowError,
    RowResult,
)
from lorabel.media.fetching import Fetcher
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from model_server.answering import answering_family
from model_server.decoders import Decoders, decoder_count
from model_server.engine import Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.heads import Heads
from model_server.metrics import FeatureCacheCollector, Metrics
from model_server.remote_adapters import RemoteAdapters

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
# Time after a request's `timeout_s` in which rows that are on the device may still be answered.
GRACE_S = 1.0
POLL_INTERVAL_S = 0.2
PREDICT_PATH = "/v1/predict"
EXIT_AFTER_S = 0.5
# sysexits.h: an internal error. Gunicorn gives up if a worker ends with 3 or 4, and replaces it otherwise.
EXIT_STATUS = os.EX_SOFTWARE
# Keys of the WSGI environment for a caller without a socket (a Ray replica): a function that returns whether the
# client has gone, and the `time.monotonic` at which the request arrived.
IS_CLIENT_GONE, ARRIVED_AT = "lorabel.is_client_gone", "lorabel.arrived_at"


def create_app(settings: Settings) -> Flask:
    """Create the app and load the base models that FAMILIES names.

    Takes seconds, or minutes if weights must be downloaded from a hub. The engine is `app.extensions["engine"]`;
    close it to end its threads.

    Raises:
        SettingsError: FAMILIES or MODEL_<FAMILY> names something that cannot be loaded.
    """
    adapter_folders = AdapterFolders(settings.adapters_dir)
    metrics_registry = CollectorRegistry()
    metrics = Metrics(metrics_registry)
    count = decoder_count(settings)
    decoders = Decoders(count, settings, metrics) if count else None

    def load(family_type: type[Family]) -> LoadedFamily:
        is_remote = family_type is Generator and settings.generator_url is not None
        family = load_served(RemoteGenerator if is_remote else family_type, settings)
        if isinstance(family, RemoteGenerator):
            log.info("%s writes at %s", family.name, family.server.url)
            adapters = RemoteAdapters(family, adapter_folders, settings.generator_adapters_dir)
            return LoadedFamily(family, adapters, _feature_cache(settings))
        log.info("%s computes on %s in %s", family.name, family.device, family.dtype)
        adapter_bank = AdapterBank(family, adapter_folders, settings.adapter_memory_mb * MEGABYTE)
        return LoadedFamily(family, adapter_bank, _feature_cache(settings))

    family_pool = FamilyPool(load, [load(family_type) for family_type in families_named(settings)])
    metrics_registry.register(
        FeatureCacheCollector(
            lambda: {loaded.family.name: loaded.cache.figures() for loaded in family_pool.loaded}
        )
    )
    if decoders is not None:
        decoders.start()
    engine = Engine(
        family_pool,
        Files(Fetcher(settings).fetch, settings.media_fresh_s, decoders),
        Heads(adapter_folders, metrics),
        metrics,
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
        settings=settings,
        on_failure=_end_process,
    )
    return _create_app(settings, engine, metrics_registry)


def _create_app(settings: Settings, engine: Engine, metrics_registry: CollectorRegistry) -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_mb * MEGABYTE
    app.extensions["engine"] = engine
    adapter_folders = AdapterFolders(settings.adapters_dir)
    require_basic_auth(app, settings, open_paths=("/livez",))
    _handle_errors(app)

    @app.get("/livez")
    @app.get("/health")
    def health() -> tuple[Response, int]:
        return (jsonify(status="UP"), 200) if engine.is_alive else (jsonify(status="a thread has ended"), 500)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(metrics_registry), content_type=CONTENT_TYPE_LATEST)

    def answer_rows(body: bytes, environ: dict[str, Any]) -> PlainAnswer:
        predict_request = request_body.decode(body, settings.max_waiting)
        if ARRIVED_AT in environ:
            left_s = max(0.0, predict_request.timeout_s - (time.monotonic() - environ[ARRIVED_AT]))
            predict_request = predict_request.model_copy(update={"timeout_s": left_s})
        client = environ.get("gunicorn.socket")
        is_client_gone = environ.get(IS_CLIENT_GONE, lambda: is_disconnected(client))
        return PlainAnswer(_predict(engine, predict_request, is_client_gone).model_dump_json().encode())

    @app.post(PREDICT_PATH)
    def predict() -> Response:
        raise_failure()
        body = answer_rows(request.get_data(cache=False), request.environ).body
        return Response(body, content_type="application/json")

    app.wsgi_app = PlainRoute(  # type: ignore[method-assign]
        app, PREDICT_PATH, answer_rows, lambda environ: is_allowed(environ, settings)
    )

    @app.post("/v1/preload")
    def preload() -> Response:
        preload_request = PreloadRequest.model_validate_json(request.get_data())
        for adapter in preload_request.adapters:
            # A folder may be missing also where no loaded family would look for it.
            adapter_folders.path(adapter)
            engine.family_pool.preload(adapter, preload_request.family)
        return jsonify(status="ok")

    @app.post("/v1/families")
    def families() -> Response:
        asked = FamiliesRequest.model_validate_json(request.get_data())
        sources = {loaded.family.name: loaded.family.source for loaded in engine.family_pool.loaded}
        answers = [answering_family(question, settings, sources) for question in asked.questions]
        return _json(FamiliesResponse(families=answers))

    @app.get("/v1/models")
    def models() -> Response:
        return _json(_describe(settings, engine))

    return app


def _predict(
    engine: Engine, predict_request: PredictRequest, is_client_gone: Callable[[], bool]
) -> PredictResponse:
    """Wait for the rows until `timeout_s` and GRACE_S are over, or the client has gone; cancel what is missing.

    A cancelled row is a result with an error that is not permanent.
    """
    deadline = time.monotonic() + predict_request.timeout_s + GRACE_S
    futures = engine.submit(predict_request)
    missing: set[Future[RowResult]] = set(futures)
    while missing and time.monotonic() < deadline and not is_client_gone():
        _, missing = wait(missing, timeout=min(POLL_INTERVAL_S, max(0.0, deadline - time.monotonic())))
    cancelled = {future for future in missing if future.cancel()}
    error = RowError(reason=f"not ready after {predict_request.timeout_s:g} s", is_permanent=False)
    return PredictResponse(
        rows=[RowResult(error=error) if future in cancelled else future.result() for future in futures]
    )


def _end_process() -> None:
    """End this process, so that gunicorn, or Ray, starts a new one. Answers have EXIT_AFTER_S to be sent."""
    time.sleep(EXIT_AFTER_S)
    os._exit(EXIT_STATUS)


def _feature_cache(settings: Settings) -> FeatureCache:
    pixels, features = settings.pixels_memory_mb * MEGABYTE, settings.features_memory_mb * MEGABYTE
    embeddings = settings.embeddings_memory_mb * MEGABYTE
    return FeatureCache({DECODED: pixels, FEATURES: features, TEXTS: features, EMBEDDINGS: embeddings})


def _describe(settings: Settings, engine: Engine) -> ModelsResponse:
    loaded_families = engine.family_pool.loaded
    return ModelsResponse(
        device=str(choose_device(settings)),
        precision=served_precision(settings),
        max_batch=engine.sizes.max_batch,
        families=[
            FamilyInfo(
                name=family.name,
                source=family.source,
                parameters=sum(parameter.numel() for parameter in family.module.parameters()),
                lora_layers=len(family.lora_layers()),
            )
            for family in (loaded_family.family for loaded_family in loaded_families)
        ],
        adapters=[name for loaded_family in loaded_families for name in loaded_family.adapter_bank.names],
        adapter_bytes=sum(loaded_family.adapter_bank.nbytes for loaded_family in loaded_families),
    )


def _json(message: BaseModel) -> Response:
    return Response(message.model_dump_json(), content_type="application/json")


def _handle_errors(app: Flask) -> None:
    statuses = {
        ValidationError: 400,
        BadRequestError: 400,
        NotFoundError: 404,
        UnreadableError: 409,
        RequestTooLargeError: 413,
        ModelServerBusyError: 503,
    }

    def handle(error: Exception) -> tuple[Response, int]:
        answer = jsonify(error=str(error))
        if isinstance(error, ModelServerBusyError):
            answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer, statuses[type(error)]

    for error_type in statuses:
        app.register_error_handler(error_type, handle)
    app.register_error_handler(HTTPException, lambda error: (jsonify(error=error.description), error.code or 500))
