"""The routes of the pages, below `/ui`. A route reads what a page shows and renders its template.

Every answer forbids the browser to load anything from another host, or to run what is written into the page.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response as AnyResponse

from backend.pages import (
    accept,
    cells,
    comparison,
    connect_routes,
    explanation,
    forget,
    home,
    project,
    rule_page_routes,
    runs,
    tasks,
    version,
)
from backend.pages.answers import NO_CONTENT, NUMBER, PROJECT, event_answer, quiet_answer, see
from backend.pages.connect import connect_link, is_connected
from backend.pages.formats import FILTERS
from backend.pages.forms import FIELD, check_form, form_token, keep_token
from backend.pages.limits import read_limits
from backend.pages.paging import page_url
from backend.services import services
from lorabel.database import bulk_runs, training_runs, versions
from lorabel.database.tables import BulkRunKind
from lorabel.errors import ModelServerBusyError, UnreadableError
from lorabel.inference import promotion

log = logging.getLogger(__name__)
blueprint = Blueprint("pages", __name__, url_prefix="/ui", template_folder="templates", static_folder="static")
root = Blueprint("root", __name__)
for part in (connect_routes, rule_page_routes):
    blueprint.register_blueprint(part.blueprint)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
)
# A browser asks again for a picture after so many seconds, and sooner for one that could not be read.
THUMBNAIL_S, NO_THUMBNAIL_S = 3600, 60
ERROR_TITLES: Mapping[int, str] = MappingProxyType(
    {
        400: "This address cannot be read",
        401: "User and password are needed",
        403: "This form was not accepted",
        404: "There is no such page",
        409: "This cannot be done now",
        503: "This cannot be answered now",
    }
)
"""By status code; others are `Something went wrong`."""


@root.get("/")
def enter() -> AnyResponse:
    """Send people who open the backend's address to its pages."""
    return redirect(url_for("pages.show_home"))


@blueprint.before_request
def check_forms() -> None:
    """Refuse a form that another site sent."""
    if request.method == "POST":
        check_form()


@blueprint.after_request
def protect(answer: Response) -> Response:
    """Write errors as pages, and limit what the browser does with an answer."""
    if answer.status_code >= 400 and answer.is_json:
        body = answer.get_json()
        title = ERROR_TITLES.get(answer.status_code, "Something went wrong")
        answer.set_data(render_template("error.html", title=title, message=body["error"]))
        answer.mimetype = "text/html"
    for name, value in HEADERS.items():
        # Pictures and static files say themselves how long they are kept.
        if name != "Cache-Control" or answer.status_code >= 400 or name not in answer.headers:
            answer.headers[name] = value
    keep_token(answer)
    return answer


@blueprint.context_processor
def provide() -> dict[str, Any]:
    """What every template may use."""
    return {
        "form_token": form_token,
        "form_field": FIELD,
        "page_url": page_url,
        "read_limits": read_limits,
        "connect_link": connect_link,
    }


@blueprint.record_once
def add_filters(state: Any) -> None:
    """Let templates write numbers and times."""
    state.app.jinja_env.filters.update(FILTERS)
    state.app.jinja_env.tests["connected"] = is_connected
    state.app.jinja_env.trim_blocks = state.app.jinja_env.lstrip_blocks = True


@blueprint.get("/")
def show_home() -> str:
    """Show all projects, what goes on, and what is wrong."""
    view = home.read_home(services())
    return render_template("home.html", view=view, titles=runs.titles(services()))


@blueprint.post("/checks")
def examine() -> AnyResponse:
    """Have the doctor look again."""
    services().vitals.checks.renew()
    return see("pages.show_home")


@blueprint.get(PROJECT)
def show_project(project_id: int) -> str:
    """Show a project's figures."""
    return render_template("project.html", view=project.read_project(services(), project_id))


@blueprint.get(f"{PROJECT}/cell")
def show_cell(project_id: int) -> str:
    """Show the tasks of a cell of the confusion matrix."""
    return render_template("cell.html", view=cells.read_cell(services(), project_id))


@blueprint.get(f"{PROJECT}/tasks")
def show_tasks(project_id: int) -> str:
    """Show the tasks that are searched for, or worth a look."""
    view = tasks.read_tasks(services(), project_id)
    return render_template("tasks.html", view=view, names=tasks.NAMES)


@blueprint.get(f"{PROJECT}/tasks/{NUMBER}task_id>")
def show_task(project_id: int, task_id: int) -> AnyResponse:
    """Show why the model answers about a task as it does; only a sentence if too many others are explained."""
    try:
        view = explanation.read_page(services(), project_id, task_id)
    except ModelServerBusyError as error:
        html = render_template("explanation_later.html", project_id=project_id, task_id=task_id, reason=str(error))
        return Response(html, 503, {"Retry-After": str(error.retry_after_s)})
    return Response(render_template("explanation.html", view=view))


@blueprint.get(f"{PROJECT}/tasks/{NUMBER}task_id>/pictures/{NUMBER}number>")
def show_picture(project_id: int, task_id: int, number: int) -> Response:
    """A picture of a task as its page shows it; the first is 0."""
    picture = explanation.read_picture(services(), project_id, task_id, number)
    answer = Response(picture, content_type="image/jpeg")
    answer.headers["Cache-Control"] = f"private, max-age={THUMBNAIL_S}"
    return answer


@blueprint.get(f"{PROJECT}/tasks/{NUMBER}task_id>/thumbnail")
def show_thumbnail(project_id: int, task_id: int) -> Response:
    """A small picture of a task, or with `?large=1` one of middle size; one that says so if it cannot be read."""
    try:
        thumbnail, kept_s = tasks.read_thumbnail(services(), project_id, task_id), THUMBNAIL_S
    except UnreadableError as error:
        log.info("project %d: task %d has no thumbnail: %s", project_id, task_id, error)
        answer, kept_s = blueprint.send_static_file("no-picture.svg"), NO_THUMBNAIL_S
    else:
        answer = Response(thumbnail, content_type="image/jpeg")
    answer.headers["Cache-Control"] = f"private, max-age={kept_s}"
    return answer


@blueprint.post(f"{PROJECT}/label-errors")
def find_label_errors(project_id: int) -> AnyResponse:
    """Queue a bulk run that looks for label errors."""
    run = bulk_runs.request(services().store, project_id, "asked for on the page", kind=BulkRunKind.LABEL_ERRORS)
    services().jobs.carry_out(run)
    services().active_runs.forget()
    return see("pages.show_bulk_run", project_id=project_id, run_id=run.id)


@blueprint.post(f"{PROJECT}/index")
def index_tasks(project_id: int) -> AnyResponse:
    """Queue a bulk run that embeds all tasks, so that search finds each of them."""
    run = tasks.request_index(services(), project_id)
    services().jobs.carry_out(run)
    services().active_runs.forget()
    return see("pages.show_bulk_run", project_id=project_id, run_id=run.id)


@blueprint.route(f"{PROJECT}/train", methods=["GET", "POST"])
def train(project_id: int) -> str | AnyResponse:
    """Ask whether to train now; queue a training run."""
    if request.method == "GET":
        return render_template("train.html", view=project.read_training(services(), project_id))
    run = training_runs.request(services().store, project_id, "asked for on the page")
    services().jobs.train(run.id, run.attempt)
    services().active_runs.forget()
    return see("pages.show_training_run", project_id=project_id, run_id=run.id)


@blueprint.get(f"{PROJECT}/versions/<name>")
def show_version(project_id: int, name: str) -> str:
    """Show a version."""
    return render_template("version.html", view=version.read_version(services(), project_id, name))


@blueprint.get(f"{PROJECT}/versions/<name>/compare")
def compare_versions(project_id: int, name: str) -> str:
    """Show a version beside another one, by the tasks that changed."""
    return render_template("comparison.html", view=comparison.read_comparison(services(), project_id, name))


@blueprint.route(f"{PROJECT}/versions/<name>/promote", methods=["GET", "POST"])
def promote(project_id: int, name: str) -> str | AnyResponse:
    """Say what making a version live would do; do it."""
    if request.method == "GET":
        return render_template("promote.html", view=version.read_promotion(services(), project_id, name))
    number = versions.parse_number(project_id, name)
    learns_from_all = "all_annotations" in request.form
    promotion.promote(
        services().store, services().model_client, project_id, number, learns_from_all=learns_from_all
    )
    services().jobs.look_ahead(project_id)
    return see("pages.show_version", project_id=project_id, name=f"v{number}")


@blueprint.route(f"{PROJECT}/rollback", methods=["GET", "POST"])
def roll_back(project_id: int) -> str | AnyResponse:
    """Say what going back to the parent of the live version would do; do it."""
    if request.method == "GET":
        return render_template("promote.html", view=version.read_promotion(services(), project_id, None))
    promotion.rollback(services().store, services().model_client, project_id)
    services().jobs.look_ahead(project_id)
    return see("pages.show_project", project_id=project_id)


@blueprint.get("/runs")
def show_runs() -> str:
    """Show the runs of all projects."""
    return render_template("runs.html", view=runs.read_runs(services(), None))


@blueprint.get(f"{PROJECT}/runs")
def show_project_runs(project_id: int) -> str:
    """Show the runs of a project."""
    return render_template("runs.html", view=runs.read_runs(services(), project_id))


@blueprint.get(f"{PROJECT}/training/{NUMBER}run_id>")
def show_training_run(project_id: int, run_id: int) -> str:
    """Show a training run with its loss and its log."""
    return render_template("run.html", view=runs.read_training_run(services(), project_id, run_id))


@blueprint.get(f"{PROJECT}/bulk/{NUMBER}run_id>")
def show_bulk_run(project_id: int, run_id: int) -> str:
    """Show a bulk run with its log."""
    return render_template("run.html", view=runs.read_bulk_run(services(), project_id, run_id))


@blueprint.route(f"{PROJECT}/training/{NUMBER}run_id>/cancel", methods=["GET", "POST"])
def cancel_training(project_id: int, run_id: int) -> str | AnyResponse:
    """Say what cancelling a training run would do; do it."""
    if request.method == "GET":
        return render_template("cancel.html", view=runs.read_training_run(services(), project_id, run_id))
    training_runs.cancel(services().store, project_id, run_id)
    services().active_runs.forget()
    return see("pages.show_training_run", project_id=project_id, run_id=run_id)


@blueprint.route(f"{PROJECT}/bulk/{NUMBER}run_id>/cancel", methods=["GET", "POST"])
def cancel_bulk(project_id: int, run_id: int) -> str | AnyResponse:
    """Say what cancelling a bulk run would do; do it."""
    if request.method == "GET":
        return render_template("cancel.html", view=runs.read_bulk_run(services(), project_id, run_id))
    bulk_runs.cancel(services().store, project_id, run_id)
    services().active_runs.forget()
    return see("pages.show_bulk_run", project_id=project_id, run_id=run_id)


@blueprint.get(f"{PROJECT}/accept")
def show_accept(project_id: int) -> str:
    """Show what may be accepted without a look, and what was."""
    return render_template("accept.html", view=accept.read_accept(services(), project_id))


@blueprint.post(f"{PROJECT}/accept/find")
def find_acceptable(project_id: int) -> AnyResponse:
    """Queue a bulk run that finds what may be accepted, and writes nothing."""
    wish = replace(accept.read_wish(request.form), is_review=False)
    run = accept.ask(services(), project_id, wish, None)
    return see("pages.show_bulk_run", project_id=project_id, run_id=run.id)


@blueprint.route(f"{PROJECT}/accept/write", methods=["GET", "POST"])
def accept_tasks(project_id: int) -> str | AnyResponse:
    """Say what accepting would do; do it."""
    if request.method == "GET":
        return render_template("accept_tasks.html", view=accept.read_writing(services(), project_id))
    wish = accept.read_wish(request.form)
    email = None if wish.is_review else request.form.get("email", "").strip()
    run = accept.ask(services(), project_id, wish, email)
    return see("pages.show_bulk_run", project_id=project_id, run_id=run.id)


@blueprint.route(f"{PROJECT}/accept/{NUMBER}acceptance_id>/undo", methods=["GET", "POST"])
def undo_acceptance(project_id: int, acceptance_id: int) -> str | AnyResponse:
    """Say what undoing an acceptance would do; do it."""
    if request.method == "GET":
        view = accept.read_undoing(services(), project_id, acceptance_id)
        return render_template("accept_undo.html", view=view)
    run = accept.undo(services(), project_id, acceptance_id)
    return see("pages.show_bulk_run", project_id=project_id, run_id=run.id)


@blueprint.route(f"{PROJECT}/forget", methods=["GET", "POST"])
def forget_data(project_id: int) -> str | AnyResponse:
    """Say what would be deleted of a project, a task or an annotator; delete it."""
    if request.method == "GET":
        view = forget.read_forget(services(), project_id, request.args, forget.PLAN_WAIT_S)
        return render_template("forget.html", view=view)
    choice = forget.forget(services(), project_id, request.form)
    return see("pages.forget_data", project_id=project_id, kind=choice.kind, id=choice.id)


@blueprint.get(f"{PROJECT}/forget/events")
def stream_forget_plan(project_id: int) -> Response:
    """What would be deleted, as a server-sent event once it is known. With 204 the browser asks no more."""
    if request.headers.get("Last-Event-ID"):
        return Response(status=NO_CONTENT)
    view = forget.read_forget(services(), project_id, request.args, forget.EVENT_WAIT_S)
    return quiet_answer() if view.is_looking else event_answer(render_template("forget_plan.html", view=view))


@blueprint.get("/events")
def stream_events() -> Response:
    """The active runs as a server-sent event, if they have changed since the last one; `?project=12` for one."""
    asked = request.args.get("project", type=int)
    active = runs.active_of(services(), asked)
    html = render_template("active_runs.html", active=active, titles=runs.titles(services()), project_id=asked)
    return event_answer(html)


@blueprint.get("/<path:_>")
def refuse(_: str) -> str:
    """Answer unknown addresses below the pages' with a page."""
    raise NotFound("there is no page at this address")
