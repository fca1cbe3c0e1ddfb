"""Times of series are read and written as by the editor of the real Label Studio."""

from dataclasses import dataclass
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.label_config import parse
from lorabel.labeling.provenance import is_accepted
from lorabel.labeling.series_content import series_content
from lorabel.media.data_url import decode
from lorabel.media.series import read_series
from lorabel.media.time_format import TimeFormat
from lorabel.problems.binding import bind
from lorabel.series_contracts import FoundSegment, SeriesScores
from tests.e2e.courses import data_url
from tests.e2e.label_studio_server import Server
from tests.e2e.test_browser import WAIT_S, LabelingStream
from tests.e2e.test_segments_of_series import PLOT, REGIONS

pytestmark = [pytest.mark.e2e, pytest.mark.long]

POINTS, FIRST, LAST, INSTANT = 20, 3, 8, 12
BEGINS_MS, STEP_MS = 1_714_521_600_000, 3_723_250


@dataclass(frozen=True)
class Case:
    """A series and how the label config says that it is stored.

    Args:
        attributes: of `<TimeSeries>`.
        time_format: of its dates; empty for numbers.
        columns: the names of the columns with times and values; empty for a file without a header.
    """

    attributes: str
    time_format: str = ""
    columns: tuple[str, str] | None = ("Time", "Load")
    separator: str = ","
    is_json: bool = False

    @property
    def times(self) -> list[str]:
        if not self.time_format:
            return [f"{0.5 * point:g}" for point in range(POINTS)]
        time_format = TimeFormat(self.time_format)
        return [time_format.format(BEGINS_MS + STEP_MS * point) for point in range(POINTS)]

    @property
    def data(self) -> Any:
        if self.is_json:
            return {"time": self.times, "load": list(range(POINTS))}
        rows = [*([self.columns] if self.columns else []), *((at, str(n)) for n, at in enumerate(self.times))]
        return data_url("".join(self.separator.join(row) + "\n" for row in rows).encode(), "text/csv")

    @property
    def label_config(self) -> str:
        channel = "load" if self.columns else "1"
        time_format = f'timeFormat="{self.time_format}"' if self.time_format else ""
        return (
            '<View><TimeSeriesLabels name="event" toName="ts"><Label value="Run"/><Label value="Jump"/>'
            f'</TimeSeriesLabels><TimeSeries name="ts" value="$ts" {self.attributes} {time_format} '
            f'overviewWidth="100%"><Channel column="{channel}"/></TimeSeries></View>'
        )


CASES = {
    "microseconds": Case('timeColumn="time"', "%Y-%m-%d %H:%M:%S.%f"),
    "milliseconds": Case('timeColumn="Time"', "%Y-%m-%dT%H:%M:%S.%L"),
    "tabs": Case('timeColumn="time" sep="tab"', separator="\t"),
    "guessed": Case('timeColumn="time" sep="auto"', separator=";"),
    "american": Case('timeColumn="time"', "%m/%d/%y %I:%M:%S %p"),
    "months": Case('timeColumn="time" sep=";"', "%a %b %e %Y %H:%M:%S", separator=";"),
    "epoch": Case('timeColumn="time"', "%Q"),
    "days": Case('timeColumn="time"', "%Y %j %H:%M:%S"),
    "numbers": Case('timeColumn="time"'),
    "index": Case(""),
    "no header": Case('timeColumn="0"', columns=None),
    "json": Case('valueType="json" timeColumn="time"', "%Y-%m-%d %H:%M:%S", is_json=True),
}


@pytest.mark.parametrize("name", CASES)
def test_the_editor_shows_segments_at_the_times_that_we_mean_and_writes_them_alike(
    name: str, label_studio: Server, client: LabelStudio, browser: Chrome
) -> None:
    case = CASES[name]
    (problem,) = bind(case.label_config).bindings
    times = _times(case)
    segments = [(times[FIRST], times[LAST], 0), (times[INSTANT], times[INSTANT], 1)]
    found = tuple(FoundSegment(start=start, end=end, label=label) for start, end, label in segments)
    predicted = problem.prediction(SeriesScores(segments=found), {}).regions
    project = {"title": name, "label_config": case.label_config, "show_collab_predictions": True}
    project_id = int(client.call("POST", "/api/projects", json=project)["id"])
    task = {"data": {"ts": case.data}, "predictions": [{"model_version": "v", "result": predicted}]}
    client.call("POST", f"/api/projects/{project_id}/import", json=[task])

    stream = LabelingStream(browser, label_studio.url, project_id, ready=PLOT)
    stream.log_in()
    task_id = stream.open()
    WebDriverWait(browser, WAIT_S).until(lambda driver: len(driver.execute_script(REGIONS)) == len(segments))
    shown = sorted((each["start"], each["end"], each["instant"]) for each in browser.execute_script(REGIONS))
    assert shown == sorted((start, end, start == end) for start, end, _ in segments)
    stream.submit()
    annotations = WebDriverWait(browser, WAIT_S).until(
        lambda _: client.call("GET", f"/api/tasks/{task_id}/annotations/")
    )
    submitted = [region["value"] for region in annotations[0]["result"]]
    assert sorted(submitted, key=repr) == sorted((region["value"] for region in predicted), key=repr)
    assert is_accepted(predicted, annotations[0]["result"], was_cancelled=False)
    assert problem.target(annotations[0]["result"], {}).segments == tuple(sorted(segments))


def _times(case: Case) -> list[float]:
    """The times of the points, as we read them."""
    tag = parse(case.label_config).controls[0].objects[0]
    content = series_content(tag, {"ts": case.data})
    assert content.series_format is not None
    data = content.text or (decode(content.media.url) if content.media else b"")
    return [float(moment) for moment in read_series(data, content.series_format, 100).times]
