from itertools import islice

import pytest
import torch

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.evaluate import UNKNOWN_LABELS, DemoModel, Recipe, grade, measure, measure_unknown
from lorabel.demo.pictures import random_pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> DemoModel:
    return DemoModel()


@pytest.mark.parametrize("is_held_out", [False, True], ids=["seen pairs", "unseen pairs"])
@pytest.mark.parametrize("attributes", [("colour",), ("shape",), ("colour", "shape")], ids=" ".join)
def test_zero_shot_accuracy_is_at_least_nine_in_ten(
    model: DemoModel, attributes: tuple[str, ...], is_held_out: bool
) -> None:
    pictures = list(islice(random_pictures(9, held_out=is_held_out), 100))
    assert measure(model, pictures, attributes) >= 0.9


def test_zero_shot_accuracy_is_as_high_for_larger_pictures(model: DemoModel) -> None:
    pictures = list(islice(random_pictures(10), 40))
    assert measure(model, pictures, ("colour", "shape"), side_px=256) >= 0.9


def test_any_label_can_be_read(model: DemoModel) -> None:
    labels = ["", "красный круг", "赤い円", "🔴", "دائرة حمراء", "\x00\u202e", "red circle " * 50]
    features = model.model.encode_text(model.tokenizer(labels), normalize=True)
    assert torch.isfinite(features).all()
    assert (features @ features.T).fill_diagonal_(0).max() < 0.99


def test_a_pictures_features_do_not_depend_on_the_rest_of_the_batch(model: DemoModel) -> None:
    pixels = model.pixels(list(islice(random_pictures(11), 8)))
    with torch.no_grad():
        together = model.model.encode_image(pixels)
        alone = torch.cat([model.model.encode_image(row) for row in torch.split(pixels, 1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_forty_graded_pictures_teach_a_rule_that_the_words_do_not_tell() -> None:
    before, after, took_s = measure_unknown("fill", seed=7, recipe=Recipe())
    assert before < 0.6
    assert after >= 0.9
    assert took_s < 10


def test_every_picture_has_a_grade_by_every_rule() -> None:
    for picture in islice(random_pictures(12), 100):
        assert all(grade(picture, rule) < len(UNKNOWN_LABELS) for rule in ("colour", "shape", "fill"))


def test_the_shipped_model_is_small() -> None:
    assert sum(file.stat().st_size for file in MODEL_FOLDER.iterdir()) < 6e6
