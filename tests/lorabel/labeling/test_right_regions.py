"""Regions that were found to be right are not checked again; all others are, whatever is in them."""

from typing import Any

import pytest

from lorabel.labeling.label_config import parse
from lorabel.labeling.right_regions import MOST_CHARACTERS, MOST_NAMES, MOST_REGIONS, RightRegions

CONFIG = (
    '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
    '<Choice value="cat"/><Choice value="dog"/></Choices></View>'
)


def region(**changed: Any) -> dict[str, Any]:
    return {
        "from_name": "label",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": ["cat"]},
        **changed,
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"value": {"choices": ["bird"]}},
        {"value": {"choices": ["cat", 1]}},
        {"value": {"choices": "cat"}},
        {"value": {"taxonomy": ["cat"]}},
        {"value": None},
        {"type": "rectanglelabels"},
        {"to_name": "other"},
        {"from_name": "other"},
    ],
)
def test_a_region_that_is_almost_as_one_that_was_right_has_errors(changed: dict[str, Any]) -> None:
    config = parse(CONFIG)
    for _ in range(2):
        assert config.find_region_errors(region()) == []
        assert config.find_region_errors(region(**changed)) != []


def test_only_regions_without_errors_and_without_places_are_remembered() -> None:
    right = RightRegions()
    assert right.note(region(), ["wrong"]) == ["wrong"]
    assert region() not in right
    assert right.note(region(), []) == []
    assert region() in right
    for other in (
        region(id="1"),
        region(value={"x": 1, "choices": ["cat"]}),
        region(value={"choices": [["cat"]]}),
        region(value={"choices": ["c" * MOST_CHARACTERS]}),
        region(type="textarea", value={"text": ["what somebody has said"]}),
    ):
        right.note(other, [])
        assert other not in right


def test_memory_is_limited() -> None:
    right = RightRegions()
    for number in range(MOST_REGIONS + 1):
        right.note(region(from_name=str(number)), [])
    assert region(from_name=str(MOST_REGIONS - 1)) in right
    assert region(from_name=str(MOST_REGIONS)) not in right
    long = region(value={"choices": ["cat"] * (MOST_NAMES + 1)})
    right.note(long, [])
    assert long not in right
