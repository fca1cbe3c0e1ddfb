import random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import augmentation, changed_tasks
from benchmarks.augmentation import AS_IT_IS
from benchmarks.changed_tasks import PICTURE_CHANGES, TEXT_CHANGES, change, changes_of
from benchmarks.curve_courses import data_url
from benchmarks.curve_features import Part

SIDE = 40
TEXT = "The north pump of line 4 makes a grinding noise since Monday morning."
DIM = 8


def striped() -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, : SIDE // 2, 0] = pixels[:, SIDE // 2 :, 2] = 220
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", PICTURE_CHANGES)
def test_a_changed_picture_differs_and_keeps_its_size(name: str) -> None:
    changed = PICTURE_CHANGES[name](striped(), random.Random(1))
    assert changed.size == (SIDE, SIDE) and changed.mode == "RGB"
    assert np.asarray(changed).tolist() != np.asarray(striped()).tolist()


def test_occlusion_covers_one_square_and_nothing_else() -> None:
    before, after = np.asarray(striped()), np.asarray(changed_tasks.occlude(striped(), random.Random(1)))
    rows, columns = np.nonzero((before != after).any(2))
    assert {rows.max() - rows.min() + 1, columns.max() - columns.min() + 1} == {round(0.4 * SIDE)}
    assert len(rows) == round(0.4 * SIDE) ** 2
    assert set(after[rows, columns].ravel().tolist()) == {128}


def test_a_change_of_colour_keeps_the_shapes() -> None:
    changed = np.asarray(changed_tasks.recolour(striped(), random.Random(1)))
    assert len(np.unique(changed.reshape(-1, 3), axis=0)) == 2
    assert (changed[:, : SIDE // 2] == changed[0, 0]).all()


def test_texts_keep_digits_with_typos_and_the_order_of_words_without_some() -> None:
    for seed in range(20):
        typos = changed_tasks.add_typos(TEXT, random.Random(seed))
        assert typos != TEXT and "4" in typos
        kept = iter(TEXT.split())
        assert all(word in kept for word in changed_tasks.drop_words(TEXT, random.Random(seed)).split())
    assert changed_tasks.drop_words("word", random.Random(0)) == "word"


@pytest.mark.parametrize("data", [{"image": data_url(striped()), "id": 7}, {"text": TEXT, "id": 7}])
def test_a_task_keeps_its_other_data_and_changes_the_same_with_the_same_seed(data: dict[str, Any]) -> None:
    assert changes_of(data) == tuple(PICTURE_CHANGES if "image" in data else TEXT_CHANGES)
    for name in changes_of(data):
        first, second = (change(data, name, random.Random(3)) for _ in range(2))
        assert first == second != data
        assert first["id"] == 7


def part(count: int, seed: int, *, is_flipped: bool = False, noise: float = 0.1) -> Part:
    """Tasks of two classes, which the first feature tells apart; `is_flipped`: the other way round."""
    generator = np.random.default_rng(seed)
    classes = np.arange(count) % 2
    features = noise * generator.normal(size=(count, DIM))
    features[:, 0] += np.where(classes == 1, 1, -1) * (-1 if is_flipped else 1)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Part(features.astype(np.float32), np.zeros((count, 2), np.float32), classes.astype(np.intp))


def test_a_change_that_flips_right_answers_is_not_learned_from() -> None:
    annotated, tests = (
        {AS_IT_IS: part(40, seed), "noise": part(40, seed + 1), "colour": part(40, seed + 2, is_flipped=True)}
        for seed in (0, 10)
    )
    figures = augmentation.compare(annotated, tests)
    assert figures[AS_IT_IS] == (1.0, 1.0, 1.0)
    assert figures["noise"][2] == 1.0
    assert figures["colour"][2] == 0.0
    # Learned from, the flipped tasks would make every answer a guess.
    assert figures["noise"][1] == 1.0
