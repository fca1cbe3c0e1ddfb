"""The dashboard for Grafana asks for metrics that are there, and for all of them."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest

from tests.docs_tables import metrics

DASHBOARD = json.loads((Path(__file__).parents[1] / "docs" / "grafana" / "lorabel.json").read_text())
# A metric's name and labels in the table of docs/operations.md, and its kind.
ROW = re.compile(r"\| `(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})?` \| (?P<kind>\w+) \|")
# Grafana puts the length of a step there.
VARIABLES = {"$__rate_interval": "1m", "$backend": "backend", "$model_server": "model_server"}


def exported() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Each time series: its metric, its name, and its labels."""
    for row in ROW.finditer(metrics()):
        labels = frozenset(filter(None, (row["labels"] or "").split(", "))) | {"job"}
        if row["kind"] == "histogram":
            yield row["name"], f"{row['name']}_bucket", labels | {"le"}
            yield row["name"], f"{row['name']}_sum", labels
            yield row["name"], f"{row['name']}_count", labels
        else:
            yield row["name"], row["name"], labels


SERIES = {name: (metric, labels) for metric, name, labels in exported()}
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [query["expr"] for panel in PANELS for query in panel.get("targets", [])]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_is_promql_about_labels_of_metrics_that_are_exported(query: str) -> None:
    filled = query
    for variable, value in VARIABLES.items():
        filled = filled.replace(variable, value)
    promql_parser.parse(filled)
    names = set(re.findall(r"\blorabel_\w+", filled))
    assert names and names <= SERIES.keys()
    labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", filled) for label in group.split(",")}
    labels |= set(re.findall(r"[{,]\s*(\w+)\s*(?:=|!)", filled))
    assert labels <= frozenset[str]().union(*(SERIES[name][1] for name in names))


def test_every_metric_has_its_place() -> None:
    asked = {SERIES[name][0] for query in QUERIES for name in re.findall(r"\blorabel_\w+", query)}
    assert asked == {metric for metric, _ in SERIES.values()}


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)
