import json
from dataclasses import replace

import pytest

from benchmarks import documents, report
from tests.benchmarks.figures import BROKEN, MACHINE, SECTIONS, SPEED


def test_the_table_shows_each_goal_beside_its_figure_and_names_missed_goals() -> None:
    lines = report.text(MACHINE, SECTIONS).splitlines()
    (limit,) = [line for line in lines if line.startswith("served of limit")]
    assert limit.split() == ["served", "of", "limit", "0.930", "0.900", "0.950", "x", ">=", "0.9", "met"]
    (p50,) = [line for line in lines if line.startswith("p50")]
    assert p50.split() == ["p50", "1,234", "ms", "<=", "1,000", "MISSED"]
    assert lines[-1] == "1 of 2 goals met; missed: p50; broke off: memory"


def test_the_table_begins_with_the_machine() -> None:
    first = report.text(MACHINE, SECTIONS).splitlines()[0]
    for fact in ("2 cores of A processor", "no GPU", "bfloat16", "torch 2.15.0", "commit abc1234567", "0.2"):
        assert fact in first


def test_figures_are_aligned_to_the_right() -> None:
    lines = [line for line in report.text(MACHINE, [SPEED]).splitlines() if "tasks/s" in line or " ms " in line]
    ends = {line.index(figure) + len(figure) for line, figure in zip(lines, ("40.0", "1,234"), strict=True)}
    assert len(ends) == 1


def test_markdown_has_a_table_for_each_subject_and_escapes_the_cell_separator() -> None:
    page = report.markdown(MACHINE, SECTIONS)
    assert "| served (bfloat16 \\| batch 16) | 40.0 | 36.0 | 44.0 | tasks/s |  |  |" in page
    assert "**How much it takes**\n\n\nBroke off: RuntimeError: no server" in page


def test_json_has_machine_rows_spread_goals_and_whether_they_are_met() -> None:
    report_json = json.loads(report.as_json(MACHINE, SECTIONS))
    assert report_json["machine"]["torch"] == "2.15.0"
    assert [section["subject"] for section in report_json["sections"]] == [SPEED.subject, BROKEN.subject]
    assert report_json["sections"][1]["error"] == "RuntimeError: no server"
    assert report_json["sections"][0]["rows"][2] == {
        "name": "p50",
        "value": 1234.5,
        "unit": "ms",
        "low": None,
        "high": None,
        "goal": {"comparison": "<=", "limit": 1000.0},
        "note": "",
        "is_met": False,
    }


def test_sections_are_read_back_and_only_those_measured_anew_are_replaced() -> None:
    former = report.from_json(report.as_json(MACHINE, SECTIONS))
    assert [replace(section, machine="") for section in former] == list(SECTIONS)
    new = replace(SPEED, rows=SPEED.rows[:1], machine="another machine")
    together = documents.merged(former, [new])
    assert {section.subject: section for section in together} == {SPEED.subject: new, BROKEN.subject: former[1]}
    page = report.markdown(MACHINE, together)
    assert "another machine." in page and page.count(MACHINE.line) == 1


@pytest.mark.parametrize(
    ("value", "shown"), [(12345.6, "12,346"), (99.94, "99.9"), (5.678, "5.68"), (0.1234, "0.123"), (-3.2, "-3.20")]
)
def test_a_figure_has_about_three_significant_digits(value: float, shown: str) -> None:
    assert report.figure(value) == shown


def test_filling_in_the_table_of_one_device_keeps_the_table_of_the_other() -> None:
    page = "<!-- bench: cpu -->\nold\n<!-- end of bench -->\n<!-- bench: cuda -->\nkept\n<!-- end of bench -->\n"
    filled = documents.fill_in(page, "cpu", "new \\1\n")
    assert filled == page.replace("old", "new \\1")
    with pytest.raises(ValueError, match="0 places `<!-- bench: mps -->`"):
        documents.fill_in(page, "mps", "new")
