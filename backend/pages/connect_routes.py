"""The routes of the pages that connect projects, and of the one that tries a label config."""

from typing import Any

from flask import Blueprint, Response, render_template, request

from backend.pages import connect
from backend.pages.answers import NO_CONTENT, UNPROCESSABLE, event_answer, see
from backend.pages.connections import Connecting
from backend.pages.label_configs import read_trial
from backend.services import services
from lorabel.errors import LorabelError

blueprint = Blueprint("connect", __name__)
NAME = "<string(minlength=16, maxlength=64):name>"
Page = str | tuple[str, int]


@blueprint.route("/connect", methods=["GET", "POST"])
def show_connect() -> Any:
    """Ask for a Label Studio's address and a token; check them."""
    if request.method == "GET":
        return render_template("connect.html", view=connect.read_form(services()))
    try:
        connecting = connect.begin(services())
    except LorabelError as error:
        return render_template("connect.html", view=connect.read_form(services(), str(error))), UNPROCESSABLE
    return see("pages.connect.show_connecting", name=connecting.name)


@blueprint.route(f"/connect/{NAME}", methods=["GET", "POST"])
def show_connecting(name: str) -> Any:
    """Show projects to choose from; connect those that were chosen, and show how far that is."""
    connecting = services().connections.read(name)
    if request.method == "GET":
        return _connecting_page(connecting)
    try:
        connect.choose(services(), connecting, request.form)
    except LorabelError as error:
        return _connecting_page(connecting, str(error)), UNPROCESSABLE
    return see("pages.connect.show_connecting", name=name)


@blueprint.get(f"/connect/{NAME}/events")
def stream_findings(name: str) -> Response:
    """What was found so far, as a server-sent event if it has changed. With 204 the browser asks no more."""
    connecting = services().connections.read(name)
    answer = event_answer(render_template("connecting_findings.html", connecting=connecting))
    is_told = not answer.get_data().rpartition(b"\ndata:")[1]
    if is_told and (connecting.is_ended or connecting.is_interrupted):
        return Response(status=NO_CONTENT)
    return answer


@blueprint.route("/label-config", methods=["GET", "POST"])
def try_label_config() -> Page:
    """Show what would be served of a label config."""
    return render_template("label_config.html", view=read_trial(services()))


def _connecting_page(connecting: Connecting, fault: str = "") -> str:
    if connecting.is_begun:
        return render_template("connecting.html", connecting=connecting)
    view = connect.read_choosing(services(), connecting)
    return render_template("connect_choose.html", view=view, connecting=connecting, fault=fault or view.fault)
