import io

import pytest
import torch
from PIL import Image

from benchmarks.loop_models import DetectorModel
from benchmarks.photos import Photos
from benchmarks.question import BOXES_CONFIG
from lorabel.demo import DETECTOR_FOLDER
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes


@pytest.mark.slow
@torch.inference_mode()
def test_the_plain_loop_finds_the_box_that_the_family_is_surest_of() -> None:
    source, device, jpeg = f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), Photos(1)[0]
    model = DetectorModel(source, device)
    ((boxes, scores, labels),) = model.answer(model.read(Image.open(io.BytesIO(jpeg)).convert("RGB"))[None])
    best = max(range(len(scores)), key=scores.__getitem__)
    family = Detector.load(source, device, torch.float32, Settings())
    (problem,) = bind(BOXES_CONFIG).bindings
    prepared = family.prepare(problem.model_input({"image": "http://photos.test/0.jpg"}), lambda _: jpeg)
    (answer,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(answer, Boxes)
    likeliest = answer.boxes[0]
    assert labels[best] == likeliest.label
    assert scores[best] == pytest.approx(likeliest.probability, abs=0.02)
    # The loop's boxes are of the padded square, whose width is the picture's.
    middle_x, _, width, _ = boxes[best]
    left, right = middle_x - width / 2, middle_x + width / 2
    assert (max(left, 0), min(right, 1)) == pytest.approx((likeliest.corners[0], likeliest.corners[2]), abs=0.02)
