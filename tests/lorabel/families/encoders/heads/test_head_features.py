import numpy as np
import pytest

from lorabel.families.encoders.heads.head_features import (
    CONCAT,
    PRODUCTS,
    feature_count,
    map_features,
    slots_of,
)
from lorabel.families.encoders.heads.linear_head import MEAN

PICTURE, NOTE = np.array([1.0, 0.0], np.float32), np.array([0.6, 0.8], np.float32)
BOTH = np.stack([PICTURE, NOTE])
SLOTS = ("image", "text")


def test_each_map_has_the_number_of_features_that_it_says() -> None:
    for feature_map in (MEAN, CONCAT, PRODUCTS):
        features = map_features(feature_map, SLOTS, SLOTS, BOTH)
        assert features.shape == (feature_count(feature_map, SLOTS, 2),)


def test_products_follow_the_contents_side_by_side() -> None:
    expected = [1.0, 0.0, 0.6, 0.8, np.sqrt(2) * 0.6, 0.0]
    assert map_features(PRODUCTS, SLOTS, SLOTS, BOTH).tolist() == pytest.approx(expected)


def test_a_content_goes_into_the_slot_of_its_modality_whatever_the_others() -> None:
    assert map_features(CONCAT, SLOTS, ("text", "image"), BOTH[::-1]).tolist() == pytest.approx([1, 0, 0.6, 0.8])
    assert map_features(CONCAT, SLOTS, ("text",), NOTE[None]).tolist() == pytest.approx([0, 0, 0.6, 0.8])
    assert map_features(PRODUCTS, SLOTS, ("image",), PICTURE[None]).tolist() == [1, 0, 0, 0, 0, 0]


def test_a_content_without_a_slot_is_not_used() -> None:
    three = np.stack([PICTURE, NOTE, NOTE])
    assert map_features(CONCAT, ("image",), ("image", "text", "image"), three).tolist() == [1.0, 0.0]


def test_there_are_slots_for_the_task_with_most_contents_of_a_modality_in_any_order_of_tasks() -> None:
    lists = [("text",), ("image", "text"), ("image", "image")]
    assert slots_of(lists) == slots_of(lists[::-1]) == ("image", "image", "text")
