from typing import Any

import pytest

from lorabel.labeling.named_labels import named_labels


def region(kind: str, value: Any, tag: str = "tag") -> dict[str, Any]:
    return {"from_name": tag, "type": kind, "value": value}


def test_labels_are_found_whatever_the_regions_are() -> None:
    result = [
        region("choices", {"choices": ["red", "blue"]}),
        region("rectanglelabels", {"x": 1, "rectanglelabels": ["car"]}, "box"),
        region("rectanglelabels", {"x": 2, "rectanglelabels": ["car"]}, "box"),
        region("labels", {"start": 0, "labels": ["person"]}, "span"),
        region("taxonomy", {"taxonomy": [["animal", "cat"], ["plant"]]}, "tree"),
        region("textarea", {"text": ["hello"]}, "text"),
        region("rating", {"rating": 3}, "stars"),
    ]
    assert named_labels(result) == {
        "tag": {"red", "blue"},
        "box": {"car"},
        "span": {"person"},
        "tree": {"animal / cat", "plant"},
    }


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        [None, 3, "text", {}],
        [region("choices", None)],
        [region("choices", {"choices": "red"})],
        [region("choices", {"choices": [None, 3]})],
        [{"type": 3, "value": {}, "from_name": []}],
        [{"type": "relation", "from_id": "a", "to_id": "b"}],
    ],
)
def test_what_is_no_label_is_left_out(result: Any) -> None:
    assert named_labels(result) == {}
