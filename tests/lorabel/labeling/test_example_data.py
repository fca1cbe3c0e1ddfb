"""The data of an example task; `tests/test_every_problem.py` checks it with every problem."""

import pytest

from lorabel.labeling.example_data import ADDRESS, TEXT, example_data
from lorabel.labeling.label_config import parse
from lorabel.labeling.series_content import series_content
from lorabel.labeling.task_content import contents


@pytest.mark.parametrize(
    ("object_tag", "data"),
    [
        ('<Image name="o" value="$picture"/>', {"picture": ADDRESS}),
        ('<Image name="o" valueList="$pages"/>', {"pages": [ADDRESS]}),
        ('<Text name="o" value="$text"/>', {"text": TEXT}),
        ('<Text name="o" value="$text" valueType="url"/>', {"text": ADDRESS}),
        ('<Text name="o" value="$title by $author"/>', {"title": TEXT, "author": TEXT}),
        (
            '<Paragraphs name="o" value="$talk" nameKey="who" textKey="what"/>',
            {"talk": [{"who": TEXT, "what": TEXT}]},
        ),
        ('<Text name="o" value="$chat[0].text"/>', {"chat[0].text": TEXT}),
        ('<Text name="o" value="Read this"/>', {}),
    ],
)
def test_each_object_tag_finds_something_of_its_type(object_tag: str, data: dict[str, object]) -> None:
    config = parse(f'<View>{object_tag}<Rating name="stars" toName="o"/></View>')
    assert example_data(config) == data
    assert len(contents(config.controls[0].objects[0], data)) == 1


def test_a_series_has_its_columns_and_a_list_two_items() -> None:
    config = parse(
        '<View><TimeSeries name="s" value="$s" valueType="json" timeColumn="t"><Channel column="a"/></TimeSeries>'
        '<TimeSeriesLabels name="what" toName="s"><Label value="x"/></TimeSeriesLabels>'
        '<List name="l" value="$l"/><Ranker name="order" toName="l"/></View>'
    )
    data = example_data(config)
    assert data["s"].keys() == {"a", "t"}
    assert len({item["id"] for item in data["l"]}) == 2
    assert series_content(config.controls[0].objects[0], data)
