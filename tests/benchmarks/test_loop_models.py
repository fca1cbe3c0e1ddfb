import io

import pytest
import torch
from PIL import Image

from benchmarks import loop_models
from benchmarks.loop_models import DetectorModel
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import png, random_scenes
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput


@pytest.mark.slow
@torch.inference_mode()
def test_the_plain_loop_finds_the_box_that_the_family_is_surest_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a drawn scene, since the demo's detector finds nothing in photographs."""
    names = ("blue square", "red circle", "green star", "thing")
    monkeypatch.setattr(loop_models, "LABELS", names)
    scene = next(scene for scene in random_scenes(5) if scene.things and scene.size[0] >= scene.size[1])
    source, device, file = f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), png(scene)
    model = DetectorModel(source, device)
    ((boxes, scores, labels),) = model.answer(model.read(Image.open(io.BytesIO(file)).convert("RGB"))[None])
    best = max(range(len(scores)), key=scores.__getitem__)
    family = Detector.load(source, device, torch.float32, Settings())
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url="scene"))
    question = BoxesInput(contents=(picture,), labels=tuple((name,) for name in names))
    prepared = family.prepare(question, lambda _: file)
    (answer,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(answer, Boxes)
    likeliest = answer.boxes[0]
    assert labels[best] == likeliest.label
    assert scores[best] == pytest.approx(likeliest.probability, abs=0.02)
    # The loop's boxes are of the padded square, whose width is the picture's.
    middle_x, _, width, _ = boxes[best]
    left, right = middle_x - width / 2, middle_x + width / 2
    assert (max(left, 0), min(right, 1)) == pytest.approx((likeliest.corners[0], likeliest.corners[2]), abs=0.02)
