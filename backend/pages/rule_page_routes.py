"""The routes of the page of a project's rules."""

from typing import Any

from flask import Blueprint, render_template, request

from backend.pages import rules
from backend.pages.answers import PROJECT, UNPROCESSABLE, see
from backend.services import services

blueprint = Blueprint("rules", __name__)


@blueprint.route(f"{PROJECT}/rules", methods=["GET", "POST"])
def show_rules(project_id: int) -> Any:
    """Show a project's rules; check, save, remove them, or take the last change back."""
    if request.method == "GET":
        return render_template("rules.html", view=rules.read_rules_page(services(), project_id))
    view = rules.change_rules(services(), project_id)
    if view is None:
        return see("pages.rules.show_rules", project_id=project_id)
    return render_template("rules.html", view=view), UNPROCESSABLE if view.faults else 200
