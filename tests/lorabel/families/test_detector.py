"""The detector against transformers' own OWLv2, and with the tiny one that is trained on drawn scenes."""

import io
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Owlv2ForObjectDetection, Owlv2ImageProcessor

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.scenes import Scene, random_scenes
from lorabel.errors import UnreadableError
from lorabel.evaluation.box_matching import match_boxes
from lorabel.evaluation.box_metrics import boxes as box_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS, NoBatchAdapters
from lorabel.families.cache import FEATURES, TEXTS, FeatureCache
from lorabel.families.detection.box_model import Asked
from lorabel.families.detection.found_boxes import BoxLimits, find_boxes
from lorabel.families.detection.matching_loss import matching_loss
from lorabel.families.detection.owlv2 import Owlv2
from lorabel.families.detection.places import chosen_places, with_head
from lorabel.families.detection.views import PreparedInput, move_boxes
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import BoxFeaturesInput, Features
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget, Corners

pytestmark = pytest.mark.slow

LABELS = (("red circle",), ("blue thing", "a blue shape"), ("grade A",))
SETTINGS = Settings(detector_threshold=0.3)


def encoded(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def question(labels: tuple[tuple[str, ...], ...] = LABELS) -> BoxesInput:
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url="x"))
    return BoxesInput(contents=(picture,), labels=labels)


def prepare(family: Detector, file: bytes, labels: tuple[tuple[str, ...], ...] = LABELS) -> PreparedInput:
    return family.prepare(question(labels), lambda _: file)


def detect(family: Detector, file: bytes, labels: tuple[tuple[str, ...], ...]) -> Boxes:
    (output,) = family.predict([prepare(family, file, labels)], [None], NoBatchAdapters(), FeatureCache({}))
    assert isinstance(output, Boxes)
    return output


@pytest.fixture(scope="module")
def family() -> Detector:
    return Detector.load(f"local-dir:{DETECTOR_FOLDER}", torch.device("cpu"), torch.float32, SETTINGS)


def scene(size: tuple[int, int], seed: int = 100) -> Scene:
    return next(random_scenes(seed, size))


@pytest.mark.parametrize("size", [(96, 96), (150, 90), (64, 200), (700, 300)])
def test_boxes_and_scores_are_those_of_transformers(family: Detector, size: tuple[int, int]) -> None:
    """transformers pads to a square, and gives boxes of the square; ours are of the picture."""
    image = scene(size).draw()
    limits = Settings(detector_overlap=1.0, detector_max_boxes=1000)
    everything = Detector.load(family.source, family.device, family.dtype, limits)
    found = detect(everything, encoded(image), (("thing",),))
    model = Owlv2ForObjectDetection.from_pretrained(DETECTOR_FOLDER, dtype=torch.float32)
    processor = Owlv2ImageProcessor.from_pretrained(DETECTOR_FOLDER)
    tokens = AutoTokenizer.from_pretrained(DETECTOR_FOLDER)(["thing"], return_tensors="pt")
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = model(pixel_values=pixels, **{name: tokens[name] for name in ("input_ids", "attention_mask")})
    (expected,) = processor.post_process_object_detection(outputs, 0.01, [image.size[::-1]])
    order = expected["scores"].argsort(descending=True, stable=True)
    scores = torch.tensor([box.probability for box in found.boxes])
    # Some boxes lie wholly in the padding, and are none of the picture's.
    corners = torch.tensor([box.corners for box in found.boxes]) * torch.tensor([*size, *size])
    of_picture = [
        (float(score), box)
        for score, box in zip(expected["scores"][order], expected["boxes"][order], strict=True)
        if box[0] < size[0] and box[1] < size[1]
    ]
    assert found.boxes and (found.width, found.height) == size
    best = torch.tensor([score for score, _ in of_picture[:10]])
    torch.testing.assert_close(scores[:10], best, rtol=0.02, atol=2e-3)
    for box, (_, expected_box) in zip(corners[:5], of_picture[:5], strict=True):
        right = expected_box.clamp(min=0).minimum(torch.tensor([*size, *size]))
        torch.testing.assert_close(box, right, rtol=0.01, atol=0.005 * max(size))


def test_a_picture_that_its_exif_turns_has_its_boxes_where_people_see_the_things(family: Detector) -> None:
    upright = scene((140, 80))
    labels = tuple((f"{thing.colour} {thing.shape}",) for thing in upright.things)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    stored = encoded(upright.draw().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=98)
    plain, turned = detect(family, encoded(upright.draw()), labels), detect(family, stored, labels)
    assert (turned.width, turned.height) == (140, 80)
    pairs = match_boxes([box.corners for box in plain.boxes[:3]], [box.corners for box in turned.boxes[:5]], 0.7)
    assert len(pairs) == len(plain.boxes[:3])


def test_rows_of_one_picture_are_encoded_once_and_recalled_for_other_labels(family: Detector) -> None:
    cache = FeatureCache({FEATURES: 10**7, TEXTS: 10**6})
    file = encoded(scene((96, 96)).draw())
    calls: list[int] = []
    hook = family.module.model.owlv2.vision_model.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    try:
        first = [prepare(family, file), prepare(family, file, LABELS[:1])]
        outputs = family.predict(first, [None, None], NoBatchAdapters(), cache)
        recalled = family.recall(question(LABELS[:1]), lambda _: digest(file), None, NoBatchAdapters(), cache)
        assert recalled is not None and recalled.pixels is None
        (again,) = family.predict([recalled], [None], NoBatchAdapters(), cache)
    finally:
        hook.remove()
    assert calls == [1] and again == outputs[1]


def test_suppression_keeps_the_likeliest_of_a_label_and_of_all_labels_if_it_is_set() -> None:
    corners = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.38], [0.5, 0.5, 0.9, 0.9]])
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.7], [0.2, 0.6]])

    def kept(overlap: float, of_labels: float, most: int = 10) -> list[tuple[int, float]]:
        limits = BoxLimits(overlap, of_labels, most, 0.0)
        found = find_boxes(corners, probabilities, (1.0, 1.0), (10, 10), limits)
        return [(box.label, round(box.probability, 2)) for box in found.boxes]

    assert kept(1.0, 1.0) == [(0, 0.9), (0, 0.8), (1, 0.7), (1, 0.6), (0, 0.2), (1, 0.1)]
    assert kept(0.5, 1.0) == [(0, 0.9), (1, 0.7), (1, 0.6), (0, 0.2)]
    assert kept(0.5, 0.5) == [(0, 0.9), (1, 0.6)]
    assert kept(1.0, 1.0, most=2) == [(0, 0.9), (0, 0.8)]


def test_boxes_in_the_padding_are_dropped_and_others_are_cut_at_the_border() -> None:
    corners = torch.tensor([[0.1, 0.6, 0.4, 0.9], [0.1, 0.3, 0.4, 0.7]])
    found = find_boxes(corners, torch.ones(2, 1), (1.0, 0.5), (200, 100), BoxLimits(1.0, 1.0, 10, 0.0))
    assert [box.corners for box in found.boxes] == [pytest.approx((0.1, 0.6, 0.4, 1.0))]


def test_augmentation_moves_the_boxes_with_the_things(family: Detector) -> None:
    """A white square on black: in the enlarged part, its box is where the bright pixels are."""
    image = Image.new("RGB", (96, 72))
    image.paste("white", (30, 24, 66, 48))
    box: Corners = (30 / 96, 24 / 72, 66 / 96, 48 / 72)
    prepared = prepare(family, encoded(image))
    for seed in range(5):
        (shown,), (target,) = family.augment(
            [prepared], [BoxTarget(((box, 0),))], torch.Generator().manual_seed(seed)
        )
        assert shown.pixels is not None
        bright = np.argwhere(shown.pixels[0].numpy()[:72, :96] > 127)
        (top, left), (bottom, right) = bright.min(0), bright.max(0) + 1
        ((moved, _),) = target.boxes
        assert moved != box
        assert np.multiply(moved, (96, 72, 96, 72)) == pytest.approx([left, top, right, bottom], abs=1.0)


def test_precomputed_views_bring_the_boxes_of_their_part(family: Detector) -> None:
    truth = scene((96, 96))
    target = BoxTarget(tuple((thing.corners, 0) for thing in truth.things))
    generator = torch.Generator().manual_seed(0)
    (precomputed,) = family.precompute(
        [prepare(family, encoded(truth.draw()))], family.trained_layers(question()), generator
    )
    seen = set()
    for _ in range(12):
        (chosen,), (moved,) = family.augment([precomputed], [target], generator)
        assert moved == move_boxes(target, chosen.views[0].part)
        seen.add(moved == target)
    assert seen == {True, False}


def test_the_loss_of_precomputed_views_is_about_the_same_in_bfloat16(family: Detector) -> None:
    """A run computes in bfloat16 where the device can, by autocast, which takes no half precision beside it."""
    truth = scene((96, 96))
    target = BoxTarget(tuple((thing.corners, 0) for thing in truth.things))
    precomputed = family.precompute([prepare(family, encoded(truth.draw()))] * 2, (), None)
    exact = family.loss(precomputed, [target] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = family.loss(precomputed, [target] * 2)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


def test_a_box_that_is_mostly_cut_off_is_no_longer_in_the_target() -> None:
    target = BoxTarget((((0.0, 0.2, 0.1, 0.4), 0), ((0.05, 0.2, 0.35, 0.4), 1)))
    ((corners, label),) = move_boxes(target, (0.1, 0.0, 1.0, 1.0)).boxes
    assert label == 1 and corners == pytest.approx((0, 0.2, 0.25 / 0.9, 0.4))


def test_the_loss_is_least_for_the_true_boxes_and_an_empty_picture_teaches_silence() -> None:
    truth = torch.tensor([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.8]])
    labels = torch.tensor([0, 1])
    corners = torch.cat([truth, torch.tensor([[0.2, 0.6, 0.3, 0.7]])])
    right = torch.tensor([[9.0, -9.0], [-9.0, 9.0], [-9.0, -9.0]])
    assert float(matching_loss(right, corners, truth, labels)) < 1e-4
    assert float(matching_loss(right, corners, truth, labels.flip(0))) > 1
    assert float(matching_loss(right, corners + 0.1, truth, labels)) > 0.5
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)
    assert float(matching_loss(torch.full_like(right, -9.0), corners, *nothing)) < 1e-4
    assert float(matching_loss(right, corners, *nothing)) > 5


def test_the_loss_asks_nothing_where_nobody_knows_what_is_there() -> None:
    truth, unlabelled = torch.tensor([[0.1, 0.1, 0.4, 0.4]]), torch.tensor([[0.5, 0.5, 0.9, 0.8]])
    corners = torch.cat([truth, unlabelled + 0.01, torch.tensor([[0.2, 0.6, 0.3, 0.7]])])
    logits = torch.tensor([[9.0, -9.0], [9.0, 9.0], [-9.0, -9.0]])
    labels = torch.tensor([0])
    assert float(matching_loss(logits, corners, truth, labels)) > 5
    assert float(matching_loss(logits, corners, truth, labels, unlabelled)) < 1e-4
    somewhere = torch.tensor([[9.0, -9.0], [-9.0, 9.0], [-9.0, 9.0]])
    assert float(matching_loss(somewhere, corners, truth, labels)) > 5
    assert float(matching_loss(somewhere, corners, truth, labels, None, (1,))) < 1e-4
    assert float(matching_loss(-logits, corners, truth, labels, unlabelled, (0, 1))) > 5, (
        "true boxes are asked for"
    )


def test_boxes_without_a_label_move_with_the_part() -> None:
    first, second = (0.0, 0.2, 0.1, 0.4), (0.05, 0.2, 0.35, 0.4)
    moved = move_boxes(BoxTarget((), unlabelled=(first, second), incomplete=(1,)), (0.1, 0.0, 1.0, 1.0))
    assert moved.unlabelled == (pytest.approx((0, 0.2, 0.25 / 0.9, 0.4)),) and moved.incomplete == (1,)


def test_no_place_is_learned_from_where_nobody_knows_what_is_there() -> None:
    """Places that are shown beside a box, as they see the same thing, teach that they are none."""
    corners = torch.tensor(
        [
            [0.1, 0.1, 0.4, 0.4],
            [0.22, 0.1, 0.52, 0.4],
            [0.12, 0.1, 0.4, 0.4],
            [0.6, 0.6, 0.9, 0.9],
            [0.1, 0.6, 0.4, 0.9],
        ]
    )
    logits = torch.tensor([[3.0], [-1], [0], [2], [1]])
    drawn = {"contents": question().contents, "labels": (("a",),), "boxes": (((0.12, 0.1, 0.42, 0.4), 0),)}
    asked = BoxFeaturesInput(**drawn)

    def alike(boxes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(5, len(boxes))

    assert chosen_places(corners, logits, alike, asked, (1.0, 1.0)) == [0, 3, 1, 4]
    unclear = BoxFeaturesInput(**drawn, unlabelled=((0.6, 0.6, 0.9, 0.88), (0.23, 0.1, 0.52, 0.4)))
    assert chosen_places(corners, logits, alike, unclear, (1.0, 1.0)) == [0, 4]


def pictures(count: int, **options: object) -> list[Scene]:
    return list(itertools.islice(random_scenes(7, **options), count))  # type: ignore[arg-type]


def test_described_things_are_found_with_their_labels(family: Detector) -> None:
    """The tiny model finds most things by colour and shape, also of pairs of both that it was never trained on."""
    for is_unseen, least in ((False, 0.7), (True, 0.5)):
        hits, things = 0, 0
        for drawn in pictures(12, size=(96, 96), is_unseen=is_unseen):
            names = sorted({f"{thing.colour} {thing.shape}" for thing in drawn.things})
            found = detect(family, encoded(drawn.draw()), tuple((name,) for name in names))
            shown = [box for box in found.boxes if box.probability >= found.threshold]
            for thing in drawn.things:
                of_name = [box for box in shown if names[box.label] == f"{thing.colour} {thing.shape}"]
                hits += bool(match_boxes([thing.corners], [box.corners for box in of_name]))
            things += len(drawn.things)
        assert hits / things > least


def test_others_like_an_example_are_found_whatever_the_label_is_called(family: Detector) -> None:
    """Two things of each of three kinds: with one of them as the example, the likeliest other box is its twin."""
    hits = 0
    kinds = (("red", "cross"), ("green", "star"), ("blue", "square"))
    twins = [
        scene
        for scene in itertools.islice(random_scenes(3, (96, 96), pairs=kinds), 400)
        if sorted(Counter(thing.colour for thing in scene.things).values()) == [2, 2]
        and len({(thing.colour, thing.has_hole) for thing in scene.things}) == 2
    ][:8]
    for drawn in twins:
        first = drawn.things[0]
        (twin,) = [thing for thing in drawn.things[1:] if thing.colour == first.colour]
        asked = question((("something",), ("a kind that nobody has described",)))
        asked = asked.model_copy(update={"examples": ((first.corners, 1),)})
        prepared = family.prepare(asked, lambda _, drawn=drawn: encoded(drawn.draw()))
        (output,) = family.predict([prepared], [None], NoBatchAdapters(), FeatureCache({}))
        assert isinstance(output, Boxes)
        assert {box.label for box in output.boxes} == {1}
        assert not match_boxes([first.corners], [box.corners for box in output.boxes])
        hits += bool(match_boxes([twin.corners], [box.corners for box in output.boxes[:1]]))
    assert len(twins) == 8 and hits >= 6


PARTS = (("red", "cross"), ("green", "star"), ("blue", "square"), ("yellow", "triangle"))
NAMES = ("part 17", "yellow triangle")


def annotated(scene: Scene) -> BoxTarget:
    """Green stars are `part 17`, which no words say."""
    named = {("green", "star"): 0, ("yellow", "triangle"): 1}
    boxes = ((thing.corners, named.get((thing.colour, thing.shape))) for thing in scene.things)
    return BoxTarget(tuple(sorted((corners, label) for corners, label in boxes if label is not None)))


def found_with(family: Detector, drawn: list[Scene], head: LinearHead | None) -> list[Boxes]:
    outputs = []
    for scene in drawn:
        prepared = prepare(family, encoded(scene.draw()), tuple((name,) for name in NAMES))
        (output,) = family.predict([family.with_head(prepared, head)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(output, Boxes)
        outputs.append(output)
    return outputs


def average_precisions(family: Detector, drawn: list[Scene], head: LinearHead | None) -> list[float]:
    """AP@50 of each label of NAMES."""
    outputs = found_with(family, drawn, head)
    values = box_metrics([annotated(scene) for scene in drawn], outputs, NAMES).values
    return [values["per_class"][name]["ap_50"] for name in NAMES]


def fitted(family: Detector, drawn: list[Scene]) -> LinearHead | None:
    examples, space = [], ""
    for scene in drawn:
        asked = question(tuple((name,) for name in NAMES))
        prepared = family.prepare(asked, lambda _, scene=scene: encoded(scene.draw()))
        for_features = family.for_features(prepared, annotated(scene))
        (features,) = family.predict([for_features], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(features, Features)
        examples.append(Example.of(asked, features, annotated(scene)))
        space = features.space
    return fit_head(examples, space)


def test_a_head_of_two_pictures_finds_what_no_words_say_and_keeps_what_words_say(family: Detector) -> None:
    drawn = list(itertools.islice(random_scenes(21, (96, 96), is_unseen=None, pairs=PARTS), 60))
    with_parts = [scene for scene in drawn[:30] if any(label == 0 for _, label in annotated(scene).boxes)]
    unseen = drawn[30:]
    before = average_precisions(family, unseen, None)
    head = fitted(family, with_parts[:2])
    after = average_precisions(family, unseen, head)
    assert before[0] < 0.1 and after[0] > 0.5, f"{NAMES[0]}: AP@50 {before[0]:.2f} -> {after[0]:.2f}"
    assert after[1] > before[1] - 0.05, f"{NAMES[1]}: AP@50 {before[1]:.2f} -> {after[1]:.2f}"
    again = fitted(family, with_parts[1::-1])
    assert head is not None and again is not None and head.to_bytes() == again.to_bytes()


def test_without_a_box_there_is_no_head_and_the_answer_is_that_of_the_label_texts(family: Detector) -> None:
    empty = Scene((), (96, 96), ((90, 90, 90), (120, 120, 120)))
    assert fitted(family, []) is None and fitted(family, [empty]) is None
    file = encoded(scene((96, 96)).draw())
    prepared = family.with_head(prepare(family, file), None)
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert output == detect(family, file, LABELS)


def test_features_of_a_head_repeat_the_logits_of_the_label_texts(family: Detector) -> None:
    """With a label's own embedding as weights, a head gives the base model's logits."""
    prepared = prepare(family, encoded(scene((96, 96)).draw()))
    assert isinstance(family.module, Owlv2)
    (states,) = family._states([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    with torch.no_grad():
        asked = Asked(states, prepared.picture, LABELS)
        (places,) = family.module.ask([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        texts = family.module.encode_labels(LABELS, NO_BATCH_ADAPTERS, None)
        logits = places.logits
        weights = np.concatenate([texts.numpy().T, np.ones((1, len(LABELS)))]).astype(np.float32)
        head = LinearHead(weights, np.zeros(3, np.float32), np.zeros(3, np.float32), np.ones(3, np.bool_))
        learned = with_head(head, places.features(), logits)
    torch.testing.assert_close(learned, logits, rtol=1e-3, atol=1e-3)


def test_a_head_of_other_labels_or_of_another_model_is_refused(family: Detector) -> None:
    dim = family.head_dim
    head = LinearHead(
        np.zeros((dim, 2), np.float32), np.zeros(2, np.float32), 1.0, np.ones(2, np.bool_), kind="boxes"
    )
    prepared = prepare(family, encoded(scene((96, 96)).draw()))
    with pytest.raises(UnreadableError, match="weights of shape"):
        family.with_head(prepared, head)
    with pytest.raises(UnreadableError, match="was fitted on features of"):
        family.with_head(prepared, replace(head, space="another one"))
