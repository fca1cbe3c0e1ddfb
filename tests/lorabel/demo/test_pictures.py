from itertools import islice

import numpy as np
import pytest

from lorabel.demo.pictures import COLOURS, HELD_OUT_PAIRS, SHAPES, Picture, random_pictures


def test_the_same_words_and_seed_give_the_same_pixels() -> None:
    picture = Picture("red", "star", "striped", "small", seed=7)
    assert np.array_equal(
        np.asarray(picture.draw()), np.asarray(Picture("red", "star", "striped", "small", 7).draw())
    )


def test_another_seed_gives_another_picture() -> None:
    assert not np.array_equal(
        np.asarray(Picture("red", "star", seed=1).draw()), np.asarray(Picture("red", "star", seed=2).draw())
    )


@pytest.mark.parametrize("side_px", [64, 256])
def test_a_picture_has_the_side_that_was_asked_for(side_px: int) -> None:
    image = Picture("blue", "moon").draw(side_px)
    assert (image.mode, image.size) == ("RGB", (side_px, side_px))


def test_the_object_has_its_colour() -> None:
    red, green, blue = np.asarray(Picture("red", "circle", seed=3).draw(), dtype=float).reshape(-1, 3).T
    share_reddish = np.mean((red > green + 60) & (red > blue + 60))
    assert 0.2 < share_reddish < 0.6


def test_an_unknown_word_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="colour is 'rde'; expected one of red, orange"):
        Picture("rde", "circle")


def test_random_pictures_repeat_for_a_seed_and_never_share_a_picture_with_another_seed() -> None:
    first, repeated, other = (list(islice(random_pictures(seed), 50)) for seed in (1, 1, 2))
    assert first == repeated
    assert not {picture.seed for picture in first} & {picture.seed for picture in other}


def test_held_out_pairs_are_only_drawn_when_they_are_asked_for() -> None:
    assert all(picture.pair in HELD_OUT_PAIRS for picture in islice(random_pictures(1, held_out=True), 200))
    assert not any(picture.pair in HELD_OUT_PAIRS for picture in islice(random_pictures(1, held_out=False), 200))


def test_every_colour_and_every_shape_is_held_out_twice() -> None:
    colours, shapes = zip(*HELD_OUT_PAIRS, strict=True)
    assert sorted(colours) == sorted([*COLOURS, *COLOURS])
    assert sorted(shapes) == sorted([*SHAPES, *SHAPES])
