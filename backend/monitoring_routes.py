"""Routes for operators: `/livez` for the health checks of containers, and `/metrics` for Prometheus."""

from flask import Blueprint, Response

from backend import state_metrics
from backend.services import services

blueprint = Blueprint("monitoring", __name__)
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@blueprint.get("/livez")
def livez() -> dict[str, str]:
    """Tell that the process answers. Needs no password."""
    return {"status": "UP"}


@blueprint.get("/metrics")
def metrics() -> Response:
    """The backend's metrics in Prometheus' text format."""
    text = services().metrics.render() + state_metrics.render(services().store, services().vitals)
    return Response(text, content_type=METRICS_TYPE)
