"""Figures by group over REST and on the project page."""

from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from backend.services import Services
from lorabel.database import projects, rules
from lorabel.database.tables import Annotation, now
from tests.backend.requests import CONFIG
from tests.lorabel.commands.conftest import RunLorabel, lorabel  # noqa: F401 - a fixture

GROUPS = "/api/v1/projects/1/groups"


def choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": "label", "type": "choices", "value": {"choices": [label]}}]


@pytest.fixture(autouse=True)
def annotated(services: Services) -> None:
    """Red is predicted everywhere; annotators agree in Germany, and in half of the tasks in France."""
    projects.upsert(services.store, 1, label_config=CONFIG)
    with services.store.write() as session:
        for number in range(80):
            country = ("DE", "FR")[number % 2]
            is_right = country == "DE" or number % 4 == 1
            session.add(
                Annotation(
                    project_id=1,
                    id=number,
                    task_id=number,
                    task_data={"country": country},
                    result=choice("red" if is_right else "blue"),
                    prediction_id=number,
                    prediction_version="p1.v0.r1",
                    prediction_result=choice("red"),
                    is_accepted=is_right,
                    updated_at=now() + timedelta(seconds=number),
                )
            )


def test_groups_have_figures_and_the_one_that_differs_is_named(client: FlaskClient) -> None:
    answer = client.get(f"{GROUPS}?field=country").json
    figures = {group["group"]: group["precision"] for group in answer["groups"]}
    assert {group: (share["right"], share["cases"]) for group, share in figures.items()} == {
        "DE": (40, 40),
        "FR": (20, 40),
    }
    assert figures["FR"]["low"] < 0.5 < figures["FR"]["high"]
    assert {(row["group"], row["measure"], row["label"]) for row in answer["differences"]} == {
        ("FR", "unchanged", ""),
        ("FR", "precision", "red"),
    }
    assert all(row["p"] < 0.05 for row in answer["differences"])
    (everyone,) = client.get(f"{GROUPS}?field=town").json["groups"]
    assert (everyone["group"], everyone["tasks"]) == ("(no value)", 80)


def test_what_cannot_be_asked_is_refused(client: FlaskClient) -> None:
    assert client.get(GROUPS).status_code == 400
    assert client.get(f"{GROUPS}?field=a%22b").status_code == 400
    assert client.get("/api/v1/projects/9/groups?field=country").status_code == 404
    assert client.get("/ui/projects/1?group=a%22b").status_code == 400


def test_the_page_shows_groups_and_rules(client: FlaskClient, services: Services) -> None:
    before = client.get("/ui/projects/1").text
    assert "Name a field of the tasks" in before
    assert 'id="rules"' not in before
    rules.set_file(
        services.store, 1, '[[field]]\nname = "<b>no</b> red"\nfield = "f"\nis = 1\nforbidden = ["red"]'
    )
    page = client.get("/ui/projects/1?group=country").text
    assert "&lt;b&gt;no&lt;/b&gt; red" in page
    assert "Differs by more than chance:" in page
    assert "country &#39;FR&#39;: precision of &#39;red&#39; 20 of 40 (50%), elsewhere 40 of 40 (100%)" in page
    projects.upsert(services.store, 1, label_config=CONFIG.replace('"red"', '"crimson"'))
    assert "Not applied:" in client.get("/ui/projects/1").text


def test_the_page_shows_that_a_file_of_rules_cannot_be_read(client: FlaskClient, services: Services) -> None:
    """It was set by another version."""
    with services.store.write() as session:
        projects.get(session, 1).rules = {rules.FILE: "[[future]]", rules.NUMBER: 1}
    assert "Not applied:</strong> future:" in client.get("/ui/projects/1").text


def test_the_command_prints_the_same(lorabel: RunLorabel) -> None:  # noqa: F811 - a fixture
    shown = lorabel("groups", "1", "--field", "country")
    assert "differs by more than chance: country 'FR': precision of 'red' 20 of 40 (50%)" in shown.output
    assert '"comparisons": 3' in lorabel("groups", "1", "--field", "country", "--json").output
    assert lorabel("groups", "1", "--field", "").exit_status == 1
