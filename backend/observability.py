"""`/livez` for containers, which have no password, and `/metrics` for Prometheus."""

from flask import Blueprint, Response

from backend.services import services

blueprint = Blueprint("observability", __name__)
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@blueprint.get("/livez")
def livez() -> dict[str, str]:
    return {"status": "UP"}


@blueprint.get("/metrics")
def metrics() -> Response:
    return Response(services().metrics.render(), content_type=METRICS_TYPE)
