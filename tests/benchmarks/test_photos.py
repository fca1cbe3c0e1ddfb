import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.photos import HEIGHT_PX, WIDTH_PX, Photos


@pytest.fixture(scope="module")
def photos() -> Photos:
    return Photos(pool=2)


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def test_photographs_of_different_numbers_differ_in_bytes_and_pixels(photos: Photos) -> None:
    numbers = [0, 1, 2, 3, 40, 2000, 10**6, 10**7]
    assert len({photos[number] for number in numbers}) == len(numbers)
    of_first_crop = [pixels(photos[number]) for number in numbers if number % 2 == 0]
    for index, photo in enumerate(of_first_crop):
        assert photo.shape == (HEIGHT_PX, WIDTH_PX, 3)
        assert all(not np.array_equal(photo, other) for other in of_first_crop[:index])


def test_a_number_means_the_same_photograph_in_every_process(photos: Photos) -> None:
    assert photos[17] == Photos(pool=2)[17]
