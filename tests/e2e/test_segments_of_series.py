"""Events of series in the real Label Studio and its editor: learned by a head, shown where they are, submitted."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from sqlalchemy.orm import undefer

from lorabel.commands.connect import connect
from lorabel.database import project_heads
from lorabel.database.store import Store
from lorabel.database.tables import ProjectHead
from lorabel.demo.predicting_and_training import predict
from lorabel.evaluation.series_metrics import series_metrics
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import Region, series_segment
from lorabel.media.time_format import TimeFormat
from lorabel.problems.binding import bind
from lorabel.series_contracts import SeriesSegment
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.processes import wait_until
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_every_problem_learns import train
from tests.series_scenes import COLUMNS, NAMES, SPIKE, DrawnSeries, drawn_series

pytestmark = [pytest.mark.e2e, pytest.mark.long]

FORMAT = "%Y-%m-%d %H:%M:%S.%L"
BEGINS_MS, SECOND_MS = 1_714_521_600_000, 1000.0
COLOURS = ("#5b5", "#55f", "red")
CONFIG = (
    '<View><TimeSeriesLabels name="event" toName="ts">'
    + "".join(
        f'<Label value="{name}" background="{colour}"/>' for name, colour in zip(NAMES, COLOURS, strict=True)
    )
    + f'</TimeSeriesLabels><TimeSeries name="ts" value="$csv" timeColumn="time" timeFormat="{FORMAT}" '
    'timeDisplayFormat="%H:%M:%S" overviewWidth="100%"><Channel column="load"/><Channel column="flow"/>'
    "</TimeSeries></View>"
)
ANNOTATED, UNSEEN = 16, 8
TIMEOUT_S = 90.0
# The regions of the editor, with their times in milliseconds.
REGIONS = """
const annotation = window.Htx && window.Htx.annotationStore && window.Htx.annotationStore.selected;
if (!annotation) return [];
return annotation.regionStore.regions.map(region => ({
  start: region.start, end: region.end, instant: region.instant, labels: region.labels,
}))
"""
# Where the regions stand in each channel, as fractions of its width.
DRAWN = """
return [...document.querySelectorAll('.htx-timeseries-channel')].map(channel => {
  const plot = channel.querySelector('.new_brush .overlay').getBoundingClientRect();
  return [...channel.querySelectorAll('.brushes .brush .selection')].map(each => {
    const box = each.getBoundingClientRect();
    return [(box.left - plot.left) / plot.width, (box.right - plot.left) / plot.width];
  }).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
})
"""
PLOT = ".htx-timeseries-channel .new_brush .overlay"


def date_of(moment_s: float) -> str:
    """The date at some seconds after the beginning of a series."""
    return TimeFormat(FORMAT).format(BEGINS_MS + SECOND_MS * moment_s)


def file_of(drawn: DrawnSeries) -> bytes:
    return drawn.csv([date_of(moment) for moment in drawn.times])


def result_of(drawn: DrawnSeries) -> list[Region]:
    """The result of an annotator who marks all events."""
    return [
        series_segment("event", "ts", (date_of(start), date_of(end)), [NAMES[label]])
        for start, end, label in drawn.events
    ]


def connected(lorabel: Lorabel, label_studio: Server, client: LabelStudio, count: int) -> dict[int, DrawnSeries]:
    """A project with drawn series, by task id, the first ANNOTATED of which are annotated; connected before."""
    project = {"title": "Series", "label_config": CONFIG, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    drawn = [drawn_series(number) for number in range(count)]
    data = [{"data": {"csv": data_url(file_of(each), "text/csv")}} for each in drawn]
    client.call("POST", f"/api/projects/{project_id}/import", json=data, timeout_s=60.0)
    connect(lorabel.settings, label_studio.url, label_studio.token, project_id)
    tasks = sorted(task.task_id for task in client.tasks(project_id))
    return dict(zip(tasks, drawn, strict=True))


def add_broken(client: LabelStudio, project_id: int, drawn: DrawnSeries) -> list[int]:
    """Tasks whose series cannot be read: a text in a number's column, times that run backwards, and no points."""
    header, first, second, *rest = file_of(drawn).decode().splitlines()
    files = [[header, first, second.replace(",", ",text ", 1), *rest], [header, second, first, *rest], [header]]
    before = {task.task_id for task in client.tasks(project_id)}
    data = [{"data": {"csv": data_url("\n".join(lines).encode(), "text/csv")}} for lines in files]
    client.call("POST", f"/api/projects/{project_id}/import", json=data)
    return sorted({task.task_id for task in client.tasks(project_id)} - before)


def annotate(client: LabelStudio, series: Mapping[int, DrawnSeries]) -> None:
    for task_id, drawn in series.items():
        client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result_of(drawn)})


def project_of(client: LabelStudio, task_id: int) -> int:
    return int(client.call("GET", f"/api/tasks/{task_id}")["project"])


def figures(results: Mapping[int, list[Region]], series: Mapping[int, DrawnSeries]) -> dict[str, Any]:
    (problem,) = bind(CONFIG).bindings
    truth = [problem.target(result_of(series[task_id]), {}).segments for task_id in results]
    found = [problem.target(result, {}).segments for result in results.values()]
    return series_metrics(truth, found, [SECOND_MS] * len(truth), NAMES).values


def predicted(client: LabelStudio, project_id: int, series: Mapping[int, DrawnSeries]) -> dict[int, list[Region]]:
    return {task_id: answer["result"] for task_id, answer in predict(client, project_id, list(series)).items()}


def learned(
    lorabel: Lorabel, client: LabelStudio, project_id: int, series: Mapping[int, DrawnSeries]
) -> tuple[dict[int, list[Region]], dict[str, Any]]:
    """Wait until a head of all ANNOTATED series answers: that of fewer has other ends, and answers before it.

    Returns:
        Results and figures.
    """
    with closing(Store.open(lorabel.settings)) as store:

        def is_fitted() -> bool:
            with store.read() as session:
                heads = project_heads.of_project(session, project_id, undefer(ProjectHead.annotation_ids))
                return [len(head.annotation_ids) for head in heads.values()] == [ANNOTATED]

        wait_until(is_fitted, TIMEOUT_S, "a head has learned from all annotated series")
    results = predicted(client, project_id, series)
    return results, figures(results, series)


def test_a_head_finds_events_in_series_that_nobody_annotated_and_a_run_trains_nothing(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    series = connected(lorabel_up, label_studio, client, ANNOTATED + UNSEEN)
    project_id = project_of(client, min(series))
    unseen = {task_id: series[task_id] for task_id in sorted(series)[ANNOTATED:]}
    broken = add_broken(client, project_id, series[min(series)])
    assert not any(predicted(client, project_id, unseen).values()), "nothing is predicted before it was taught"
    learned_from = {task_id: drawn for task_id, drawn in series.items() if task_id not in unseen}
    annotate(client, learned_from | {broken[0]: series[min(series)]})
    results, values = learned(lorabel_up, client, project_id, unseen)
    assert not any(predicted(client, project_id, dict.fromkeys(broken, series[min(series)])).values())
    with capsys.disabled():
        print(f"\n  F1 {values['f1']:.3f}, boundaries {values['boundary_error_steps']:.1f} steps")  # noqa: T201
    assert values["f1"] >= 0.85, values
    instants = {
        region["value"]["instant"]
        for result in results.values()
        for region in result
        if region["value"]["timeserieslabels"] == [NAMES[SPIKE]]
    }
    assert instants == {True}
    run, _ = train(lorabel_up, project_id)
    assert "series_encoder has no layers for LoRA: its head learns after every annotation" in run["decision"]


def shown(browser: Chrome) -> list[tuple[SeriesSegment, bool]]:
    """What the editor has: start and end in seconds after the beginning, label, and whether it is an instant."""
    return [
        (
            (
                (each["start"] - BEGINS_MS) / SECOND_MS,
                (each["end"] - BEGINS_MS) / SECOND_MS,
                NAMES.index(each["labels"][0]),
            ),
            each["instant"],
        )
        for each in browser.execute_script(REGIONS)
    ]


def test_events_stand_where_they_are_in_the_editor_and_others_are_drawn_and_submitted(
    lorabel_up: Lorabel, label_studio: Server, client: LabelStudio, browser: Chrome, artifacts: Path
) -> None:
    series = connected(lorabel_up, label_studio, client, ANNOTATED + 1)
    project_id, unseen = project_of(client, min(series)), max(series)
    drawn = series[unseen]
    annotate(client, {task_id: each for task_id, each in series.items() if task_id != unseen})
    results, values = learned(lorabel_up, client, project_id, {unseen: drawn})
    assert values["f1"] >= 0.8, values
    stream = LabelingStream(browser, label_studio.url, project_id, ready=PLOT)
    browser.set_window_size(1600, 1200)
    stream.log_in()
    assert stream.open() == unseen
    WebDriverWait(browser, WAIT_S).until(lambda driver: len(shown(driver)) == len(results[unseen]))
    found = [segment for segment, _ in shown(browser)]
    metrics = series_metrics([drawn.events], [found], [1.0], NAMES).values
    assert metrics["f1"] == pytest.approx(values["f1"]), "the editor has what was predicted"
    assert {segment[2] for segment, is_instant in shown(browser) if is_instant} == {SPIKE}
    WebDriverWait(browser, WAIT_S).until(lambda driver: _is_drawn(driver, drawn, found))
    browser.save_screenshot(str(artifacts / "series.png"))

    start_s, end_s = _quiet_part(drawn, found)
    _draw(browser, drawn, "burst", (start_s, start_s + (end_s - start_s) / 2))
    WebDriverWait(browser, WAIT_S).until(lambda driver: len(shown(driver)) == len(found) + 1)
    _click_twice(browser, drawn, "spike", end_s - 2)
    WebDriverWait(browser, WAIT_S).until(lambda driver: len(shown(driver)) == len(found) + 2)
    browser.save_screenshot(str(artifacts / "series-drawn.png"))
    stream.submit()
    WebDriverWait(browser, WAIT_S).until(lambda _: len(_annotations(client, unseen)) == 1)
    (annotation,) = _annotations(client, unseen)
    predicted_values = [region["value"] for region in results[unseen]]
    submitted = [region["value"] for region in annotation["result"]]
    assert all(value in submitted for value in predicted_values), "times are written as the editor writes them"
    burst, spike = (value for value in submitted if value not in predicted_values)
    dates = {date_of(moment) for moment in drawn.times}
    assert {burst["start"], burst["end"], spike["start"]} <= dates and spike["start"] == spike["end"]
    assert (burst["timeserieslabels"], burst["instant"]) == (["burst"], False)
    assert (spike["timeserieslabels"], spike["instant"]) == (["spike"], True)


def _is_drawn(browser: Chrome, drawn: DrawnSeries, found: list[SeriesSegment]) -> bool:
    """Whether each channel shows each segment where it is, to a percent of the width."""
    length_s = drawn.times[-1] - drawn.times[0]
    expected = sorted((start / length_s, end / length_s) for start, end, _ in found)
    channels = browser.execute_script(DRAWN)
    return len(channels) == len(COLUMNS) and all(
        len(channel) == len(expected) and np.allclose(channel, expected, atol=0.01) for channel in channels
    )


def _quiet_part(drawn: DrawnSeries, found: list[SeriesSegment]) -> tuple[float, float]:
    """The longest time without a segment, and a little less."""
    moments = np.arange(0.0, drawn.times[-1])
    is_quiet = np.ones(len(moments), bool)
    for start, end, _ in found:
        is_quiet &= (moments < start - 6) | (moments > end + 6)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], is_quiet.astype(int), [0]])))
    start, end = max(zip(changes[::2], changes[1::2], strict=True), key=lambda span: span[1] - span[0])
    return float(moments[start]), float(moments[end - 1])


def _choose(browser: Chrome, label: str) -> None:
    browser.find_element(By.XPATH, f"//div[contains(@class, 'lsf-labels')]//*[text()='{label}']").click()


def _place(browser: Chrome, drawn: DrawnSeries, moment_s: float) -> tuple[Any, int, int]:
    """The plot of the first channel, and where a moment is, in pixels from its middle."""
    plot = browser.find_element(By.CSS_SELECTOR, PLOT)
    x = round((moment_s / drawn.times[-1] - 0.5) * plot.rect["width"])
    return plot, x, 20


def _draw(browser: Chrome, drawn: DrawnSeries, label: str, span_s: tuple[float, float]) -> None:
    _choose(browser, label)
    plot, start, y = _place(browser, drawn, span_s[0])
    _, end, _ = _place(browser, drawn, span_s[1])
    actions = ActionChains(browser).move_to_element_with_offset(plot, start, y).click_and_hold()
    actions.move_by_offset((end - start) // 2, 0).move_by_offset(end - start - (end - start) // 2, 0)
    actions.release().perform()


def _click_twice(browser: Chrome, drawn: DrawnSeries, label: str, moment_s: float) -> None:
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()  # else the label is put on the region that was drawn
    _choose(browser, label)
    ActionChains(browser).move_to_element_with_offset(*_place(browser, drawn, moment_s)).click().click().perform()


def _annotations(client: LabelStudio, task_id: int) -> list[Any]:
    return list(client.call("GET", f"/api/tasks/{task_id}/annotations/"))
