"""HTTP in front of the engine: /v1/predict /v1/preload /v1/models /health /metrics. Internal to Lorabel."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

from flask import Flask, Response, jsonify, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import HTTPException

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import ModelServerBusyError, NotFoundError, UnreadableError
from lorabel.families.base import Family
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.device import choose_device, choose_precision
from lorabel.families.loading import families_named, load_family
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.http_auth import require_basic_auth
from lorabel.inference.messages import (
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
from model_server.engine import Engine
from model_server.family_pool import FamilyPool, LoadedFamily
from model_server.files import Files
from model_server.metrics import MemoCollector, Metrics

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
GRACE_S = 1.0
LOOK_EVERY_S = 0.2
# In the WSGI environment, from who asks without a socket: a function that says whether anybody waits any more, and
# when the request came (`time.monotonic`).
IS_GONE, ARRIVED = "lorabel.is_gone", "lorabel.arrived"


def create_app(settings: Settings) -> Flask:
    """Loads the base models that FAMILIES names: takes seconds, or minutes where a hub is asked first."""
    adapters = AdapterFolders(settings.adapters_dir)
    metrics_registry = CollectorRegistry()

    def load(kind: type[Family]) -> LoadedFamily:
        family = load_family(kind, settings)
        cache = _cache(settings)
        metrics_registry.register(MemoCollector(family.name, cache.figures))
        log.info("%s computes on %s in %s", family.name, family.device, family.dtype)
        return LoadedFamily(family, AdapterBank(family, adapters, settings.adapter_memory_mb * MEGABYTE), cache)

    engine = Engine(
        FamilyPool(load, [load(kind) for kind in families_named(settings)]),
        Files(Fetcher(settings).fetch, settings.media_fresh_s),
        Metrics(metrics_registry),
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
    )
    return _create_app(settings, engine, metrics_registry)


def _create_app(settings: Settings, engine: Engine, metrics_registry: CollectorRegistry) -> Flask:
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_mb * MEGABYTE
    app.extensions["engine"] = engine
    require_basic_auth(app, settings, open_paths=("/livez",))
    _handle_errors(app)

    @app.get("/livez")
    @app.get("/health")
    def health() -> tuple[Response, int]:
        return (jsonify(status="UP"), 200) if engine.is_alive else (jsonify(status="a thread has ended"), 500)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(metrics_registry), content_type=CONTENT_TYPE_LATEST)

    @app.post("/v1/predict")
    def predict() -> Response:
        wanted = PredictRequest.model_validate_json(request.get_data())
        if ARRIVED in request.environ:
            waited_s = time.monotonic() - request.environ[ARRIVED]
            wanted = wanted.model_copy(update={"timeout_s": max(0.0, wanted.timeout_s - waited_s)})
        client = request.environ.get("gunicorn.socket")
        is_gone = request.environ.get(IS_GONE, lambda: is_disconnected(client))
        return _answer(_predict(engine, wanted, is_gone))

    @app.post("/v1/preload")
    def preload() -> Response:
        for adapter in PreloadRequest.model_validate_json(request.get_data()).adapters:
            engine.preload(adapter)
        return jsonify(status="ok")

    @app.get("/v1/models")
    def models() -> Response:
        return _answer(_describe(settings, engine))

    return app


def _predict(engine: Engine, wanted: PredictRequest, is_gone: Callable[[], bool]) -> PredictResponse:
    """What is ready when the time is up; the rest is given up, as is everything when the client has gone."""
    deadline = time.monotonic() + wanted.timeout_s + GRACE_S
    futures = engine.submit(wanted)
    missing: set[Future[RowResult]] = set(futures)
    while missing and time.monotonic() < deadline and not is_gone():
        _, missing = wait(missing, timeout=min(LOOK_EVERY_S, max(0.0, deadline - time.monotonic())))
    late = {future for future in missing if future.cancel()}
    reason = RowError(reason=f"not ready after {wanted.timeout_s:g} s", is_permanent=False)
    return PredictResponse(
        rows=[RowResult(error=reason) if future in late else future.result() for future in futures]
    )


def _cache(settings: Settings) -> FeatureCache:
    pixels, features = settings.pixels_memory_mb * MEGABYTE, settings.features_memory_mb * MEGABYTE
    return FeatureCache({DECODED: pixels, FEATURES: features, TEXTS: features})


def _describe(settings: Settings, engine: Engine) -> ModelsResponse:
    family_pool = engine.family_pool.loaded
    device = choose_device(settings)
    return ModelsResponse(
        device=str(device),
        precision=str(choose_precision(settings, device)).removeprefix("torch."),
        max_batch=engine.max_batch,
        families=[
            FamilyInfo(
                name=family.name,
                source=family.source,
                parameters=sum(p.numel() for p in family.module.parameters()),
                lora_layers=len(family.lora_layers()),
            )
            for family in (loaded_family.family for loaded_family in family_pool)
        ],
        adapters=[name for loaded_family in family_pool for name in loaded_family.bank.names],
        adapter_bytes=sum(loaded_family.bank.nbytes for loaded_family in family_pool),
    )


def _answer(message: BaseModel) -> Response:
    return Response(message.model_dump_json(), content_type="application/json")


def _handle_errors(app: Flask) -> None:
    table = {ValidationError: 400, NotFoundError: 404, UnreadableError: 409, ModelServerBusyError: 503}

    def handle(error: Exception) -> tuple[Response, int]:
        answer = jsonify(error=str(error))
        if isinstance(error, ModelServerBusyError):
            answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer, table[type(error)]

    for kind in table:
        app.register_error_handler(kind, handle)
    app.register_error_handler(HTTPException, lambda error: (jsonify(error=error.description), error.code or 500))
