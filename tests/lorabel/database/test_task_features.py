import pytest

from lorabel.database.task_features import labels_digest
from lorabel.feature_contracts import FeaturesInput
from lorabel.problems.binding import bind

CONFIG = (
    '<View><TimeSeriesLabels name="event" toName="ts"><Label value="Burst"/></TimeSeriesLabels>'
    '<TimeSeries name="ts" value="$csv" timeColumn="time" sep=","><Channel column="load"/></TimeSeries></View>'
)


def digest_of(config: str, url: str = "/data/upload/1/pump.csv") -> str:
    (problem,) = bind(config).bindings
    return labels_digest(FeaturesInput.of(problem.model_input({"csv": url})))


@pytest.mark.parametrize(
    ("former", "changed"), [('column="load"', 'column="flow"'), ('"time"', '"at"'), ('sep=","', 'sep=";"')]
)
def test_a_head_of_series_does_not_answer_about_other_columns(former: str, changed: str) -> None:
    assert digest_of(CONFIG.replace(former, changed)) != digest_of(CONFIG)


def test_a_head_of_series_answers_about_every_task() -> None:
    assert digest_of(CONFIG, "/data/upload/2/other.csv") == digest_of(CONFIG)
