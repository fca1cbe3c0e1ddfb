"""Rules in the real Label Studio: an exclusive label and a small box are gone from what annotators get."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from lorabel.commands.connect import connect
from lorabel.demo.scenes import png
from lorabel.label_studio.client import LabelStudio
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import PROGRAM, Lorabel, bare_environment
from tests.e2e.test_boxes_in_browser import CONFIGS, NAMES, scene_of_all_names

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]

TIMEOUT_S = 120.0
RULES = """
[[exclusive]]
name = "one of two"
labels = ["blue square", "red cross"]

[[minimum_size]]
name = "no small stars"
labels = ["green star"]
width_percent = {width}
"""


def run(lorabel: Lorabel, *arguments: str) -> str:
    """Run `lorabel ARGUMENTS`, and return what it printed."""
    completed = subprocess.run(
        [str(PROGRAM), *arguments],
        env={**bare_environment(), **lorabel.environment, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def shown(client: LabelStudio, project_id: int) -> tuple[str, dict[str, dict[str, Any]]]:
    """The version of the newest prediction of the task that the labeling stream gives, and its boxes by label."""
    task = client.call("GET", f"/api/projects/{project_id}/next", timeout_s=TIMEOUT_S)
    predictions = client.call("GET", "/api/predictions/", params={"task": task["id"]})
    newest = max(predictions, key=lambda prediction: int(prediction["id"]))
    return newest["model_version"], {region["value"]["rectanglelabels"][0]: region for region in newest["result"]}


def test_what_rules_forbid_is_not_in_label_studio_and_people_see_what_was_removed(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, tmp_path: Path
) -> None:
    body = {"title": "rules", "label_config": CONFIGS["rectanglelabels"]}
    project_id = client.call("POST", "/api/projects/", json=body)["id"]
    picture = data_url(png(scene_of_all_names()), "image/png")
    client.call("POST", f"/api/projects/{project_id}/import", json=[{"image": picture}, {"image": picture}])
    connect(lorabel_up.settings, label_studio.url, label_studio.token, project_id)
    before, boxes = shown(client, project_id)
    assert (before, set(boxes)) == (f"p{project_id}.v0", set(NAMES))
    loser = min(("blue square", "red cross"), key=lambda name: boxes[name]["score"])
    winner = ({"blue square", "red cross"} - {loser}).pop()

    file = tmp_path / "rules.toml"
    file.write_text(RULES.format(width=boxes["green star"]["value"]["width"] + 1))
    run(lorabel_up, "rules", str(project_id), "set", str(file))
    version, left = shown(client, project_id)
    assert (version, set(left)) == (f"{before}.r1", {winner})
    assert left[winner]["value"] == boxes[winner]["value"]

    run(lorabel_up, "preannotate", str(project_id))
    predictions = client.call("GET", "/api/predictions/", params={"project": project_id})
    ruled = [prediction for prediction in predictions if prediction["model_version"] == version]
    assert [len(prediction["result"]) for prediction in ruled] == [1, 1]
    printed = json.loads(run(lorabel_up, "rules", str(project_id), "--json"))
    assert [(row["rule"], row["tasks"], row["removals"]) for row in printed["rules"]] == [
        ("no small stars", 2, 2),
        ("one of two", 2, 2),
    ]
    assert {removal["what"] for task in printed["tasks"] for removal in task["removals"]} == {"green star", loser}
    address = f"{lorabel_up.url}/ui/projects/{project_id}"
    page = httpx.get(address, trust_env=False, timeout=TIMEOUT_S).text
    assert "no small stars" in page and "one of two" in page

    run(lorabel_up, "rules", str(project_id), "delete")
    assert run(lorabel_up, "rules", str(project_id)).strip().endswith("sets them")
    preannotated = client.call("GET", "/api/predictions/", params={"project": project_id})
    run(lorabel_up, "preannotate", str(project_id))
    predictions = client.call("GET", "/api/predictions/", params={"project": project_id})
    assert len(predictions) == len(preannotated) + 1, "one of the tasks had no prediction without rules yet"
    (newest,) = (each for each in predictions if each["id"] not in {old["id"] for old in preannotated})
    assert (newest["model_version"], len(newest["result"])) == (before, 3)
