"""Counted scenes, and what is right to say about them."""

import itertools
import random
import re
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from lorabel.demo.counted_scenes import Kind, counted_scenes, kinds
from lorabel.demo.exchanges import NUMBERS, caption, random_exchange, random_question
from lorabel.demo.scenes import SCENE_COLOURS, SCENE_SHAPES, UNSEEN_PAIRS

TWO_KINDS = (Kind(3, "red", "cross"), Kind(1, "blue", "square"))


def test_a_picture_shows_as_many_things_as_its_kinds_say() -> None:
    for scene in itertools.islice(counted_scenes(5, side_px=256), 20):
        picture = np.asarray(scene.draw()).astype(float)
        ground = np.asarray(type(scene)((), scene.size, scene.ground).draw()).astype(float)
        parts = ndimage.label(np.abs(picture - ground).max(2) > 40)[0]
        sizes = np.bincount(parts.ravel())[1:]
        assert sum(sizes > 100) == sum(kind.count for kind in kinds(scene)) <= 4
        assert 1 <= len(kinds(scene)) <= 2


@pytest.mark.parametrize("is_unseen", [True, False])
def test_pairs_that_are_not_trained_on_are_kept_apart(is_unseen: bool) -> None:
    for scene in itertools.islice(counted_scenes(6, is_unseen=is_unseen), 30):
        assert all(((kind.colour, kind.shape) in UNSEEN_PAIRS) is is_unseen for kind in kinds(scene))


def test_no_exchange_about_trained_pairs_names_a_pair_that_is_not_trained_on() -> None:
    rng = random.Random(0)
    for scene in itertools.islice(counted_scenes(7), 300):
        exchange = random_exchange(kinds(scene), rng)
        text = f"{exchange.text} {exchange.answer}".lower()
        assert not any(f"{colour} {shape}" in text for colour, shape in UNSEEN_PAIRS)


def test_a_caption_has_number_colour_and_shape_of_each_kind() -> None:
    assert caption(TWO_KINDS) == "three red crosses and one blue square"


def test_the_answers_to_questions_follow_from_the_picture() -> None:
    rng = random.Random(0)
    asked: Counter[str] = Counter()
    for _ in range(400):
        question, answer = random_question(TWO_KINDS, rng)
        said = set(re.sub("crosses", "cross", question.rstrip("?")).split())
        said = {word if word == "cross" else word.rstrip("s") for word in said}
        fits = [
            kind
            for kind in TWO_KINDS
            if said & {*SCENE_COLOURS} <= {kind.colour} and said & {*SCENE_SHAPES} <= {kind.shape}
        ]
        if re.match("how many|count", question):
            assert answer == NUMBERS[sum(kind.count for kind in fits)]
            asked["number"] += 1
        elif question.startswith("is there"):
            assert answer == ("yes" if fits else "no")
            asked["yes or no"] += 1
        elif re.match("what colour|which colour", question):
            assert answer == fits[0].colour
            asked["colour"] += 1
        else:
            assert answer == fits[0].shape
            asked["shape"] += 1
    assert min(asked[name] for name in ("number", "yes or no", "colour", "shape")) > 20
