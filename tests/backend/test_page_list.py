"""No page is left out of the browser test (`tests/e2e/test_pages_in_browser.py`)."""

from urllib.parse import urlsplit

from flask import Flask
from flask.testing import FlaskClient

from backend.services import Services
from tests.backend import page_history, page_projects
from tests.backend.page_list import MISSING, NO_PAGES, PAGES


def endpoints(app: Flask) -> set[str]:
    """Of all pages: what a browser may open below `/ui`."""
    rules = app.url_map.iter_rules()
    return {rule.endpoint for rule in rules if rule.rule.startswith("/ui") and "GET" in (rule.methods or ())}


def test_the_browser_opens_every_page_or_there_is_a_reason(app: Flask) -> None:
    adapter = app.url_map.bind("localhost")
    opened = {adapter.match(urlsplit(path).path)[0] for path in PAGES.values()}
    assert endpoints(app) - opened - NO_PAGES.keys() == set(), "add them to tests/backend/page_list.py"
    assert NO_PAGES.keys() & opened == set(), "they are opened, so they need no reason"
    assert NO_PAGES.keys() - endpoints(app) == set(), "there are no such routes"


def test_every_page_of_the_list_is_there(client: FlaskClient, services: Services) -> None:
    page_history.write(services.store)
    page_history.write_reviews(services.store)
    page_history.write_rules(services.store)
    page_projects.write(services.store)
    answers = {name: client.get(path) for name, path in PAGES.items()}
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == {name: 404 if path in MISSING else 200 for name, path in PAGES.items()}
    assert [name for name, answer in answers.items() if "<main" not in answer.text] == []
