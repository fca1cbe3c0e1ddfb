"""The detector with models of the class of LLMDet: small ones with random weights, against transformers' own."""

import io
import itertools
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForZeroShotObjectDetection,
    AutoTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
)

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo.scenes import random_scenes
from lorabel.errors import SettingsError
from lorabel.evaluation.box_metrics import boxes as box_metrics
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.detection.grounding_dino import GroundingDino
from lorabel.families.detection.small_grounding_dino import (
    random_model,
    save_model,
    small_config,
    wordpiece_tokenizer,
)
from lorabel.families.detection.views import PreparedInput
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.mask_pipeline import AND, MaskPipeline
from lorabel.families.segmenter import Segmenter
from lorabel.feature_contracts import Features
from lorabel.mask_contracts import LabelledMasksInput, Masks
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput, BoxTarget
from workers import lora
from workers.examples import PreparedExample, TrainingExample

pytestmark = pytest.mark.slow

WORDS = ("red", "blue", "circle", "thing", "a", "shape", "cross")
LABELS = (("red circle",), ("blue thing",))
EVERYTHING = Settings(detector_overlap=1.0, detector_max_boxes=1000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("mm_grounding_dino")
    tokenizer = wordpiece_tokenizer(WORDS)
    save_model(random_model(small_config(tokenizer, 64, 16, 20)), tokenizer, 64, folder)
    return folder


@pytest.fixture(scope="module")
def family(folder: Path) -> Detector:
    return load(folder)


def load(folder: Path, dtype: torch.dtype = torch.float32, settings: Settings = EVERYTHING) -> Detector:
    return Detector.load(f"local-dir:{folder}", torch.device("cpu"), dtype, settings)


def picture(size: tuple[int, int], seed: int = 5) -> Image.Image:
    return next(random_scenes(seed, (96, 96))).draw().resize(size)


def png(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def question(labels: tuple[tuple[str, ...], ...] = LABELS) -> BoxesInput:
    content = Content(modality=Modality.IMAGE, media=MediaRef(url="x"))
    return BoxesInput(contents=(content,), labels=labels)


def prepare(family: Detector, image: Image.Image, labels: tuple[tuple[str, ...], ...] = LABELS) -> PreparedInput:
    return family.prepare(question(labels), lambda _: png(image))


def detect(family: Detector, image: Image.Image, labels: tuple[tuple[str, ...], ...] = LABELS) -> Boxes:
    (output,) = family.predict([prepare(family, image, labels)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, Boxes)
    return output


def assert_is_of_transformers(folder: Path, found: Boxes, image: Image.Image, texts: list[str]) -> None:
    """The scores and boxes of transformers' processor and model, with the likeliest token of each label."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = GroundingDinoProcessor(GroundingDinoImageProcessor.from_pretrained(folder), tokenizer)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = processor(images=image, text=texts, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    phrases, tokens = [[]], inputs["input_ids"][0].tolist()
    for place, token in enumerate(tokens[1:-1], start=1):
        phrases[-1].append(place) if token != 1012 else phrases.append([])
    logits = torch.stack([outputs.logits[0][:, places].amax(1) for places in phrases[: len(texts)]], dim=1)
    scores, order = logits.sigmoid().flatten().sort(descending=True, stable=True)
    count = len(found.boxes)
    assert count >= 20
    torch.testing.assert_close(
        torch.tensor([box.probability for box in found.boxes]), scores[:count], rtol=0, atol=1e-3
    )
    assert [box.label for box in found.boxes[:5]] == (order[:5] % len(texts)).tolist()
    results = processor.post_process_grounded_object_detection(
        outputs, threshold=0.0, text_threshold=0.0, target_sizes=[image.size[::-1]]
    )
    size = torch.tensor([*image.size, *image.size])
    for box, index in zip(found.boxes[:5], order.tolist(), strict=False):
        right = results[0]["boxes"][index // len(texts)].clamp(min=0).minimum(size)
        torch.testing.assert_close(torch.tensor(box.corners) * size, right, rtol=0, atol=1e-3 * max(image.size))


@pytest.mark.parametrize("size", [(64, 64), (150, 90), (64, 200), (700, 300)])
def test_boxes_and_scores_are_those_of_transformers(folder: Path, family: Detector, size: tuple[int, int]) -> None:
    image = picture(size)
    found = detect(family, image)
    assert (found.width, found.height) == size
    assert_is_of_transformers(folder, found, image, [text for (text,) in LABELS])


def test_the_first_grounding_dino_is_served_too(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tokenizer = wordpiece_tokenizer(WORDS)
    config = small_config(tokenizer, 64, 16, 20)
    del config["decoder_cls_embed_share"]
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(**config))
    torch.nn.init.normal_(model.model.query_position_embeddings.weight)
    save_model(model, tokenizer, 64, tmp_path)
    image = picture((120, 90))
    found = detect(load(tmp_path), image)
    assert_is_of_transformers(tmp_path, found, image, [text for (text,) in LABELS])


def test_a_picture_with_fewer_positions_than_queries_is_answered(folder: Path, family: Detector) -> None:
    """transformers' own model fails: `selected index k out of range`."""
    found = detect(family, picture((2000, 20)))
    assert (found.width, found.height) == (2000, 20) and len(found.boxes) > 5
    assert all(0 <= value <= 1 for box in found.boxes for value in box.corners)


def test_a_picture_that_its_exif_turns_is_read_as_people_see_it(family: Detector) -> None:
    upright = picture((140, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn to the right
    file = png(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    prepared = family.prepare(question(), lambda _: file)
    assert family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({})) == [detect(family, upright)]


def scores(found: Boxes, label: int) -> list[float]:
    return [box.probability for box in found.boxes if box.label == label]


def test_labels_that_are_the_same_to_the_model_have_the_same_scores(family: Detector) -> None:
    found = detect(family, picture((64, 64)), (("Red  circle",), ("blue thing",), ("red circle",)))
    assert scores(found, 0) and scores(found, 0) == scores(found, 2)
    twice = detect(family, picture((64, 64)), (("red circle", "RED CIRCLE"), ("blue thing",)))
    assert scores(twice, 0) == pytest.approx(scores(found, 0), abs=1e-6)


def test_the_score_of_several_texts_is_their_mean(family: Detector) -> None:
    image = picture((64, 64))
    asked = (("red circle",), ("blue thing",), ("red circle", "blue thing"))
    module, prepared = family.module, prepare(family, image, asked)
    assert isinstance(module, GroundingDino) and prepared.pixels is not None
    (of_each,) = logits_of(family, prepared)
    torch.testing.assert_close(of_each[:, 2], of_each[:, :2].mean(1))


def logits_of(family: Detector, *prepared: PreparedInput) -> list[torch.Tensor]:
    answered: list[torch.Tensor] = []
    original = family.module.ask

    def ask(*args: object) -> object:
        places = original(*args)  # type: ignore[arg-type]
        answered.extend(each.logits for each in places)
        return places

    family.module.ask = ask  # type: ignore[method-assign, assignment]
    try:
        family.predict(list(prepared), [None] * len(prepared), NO_BATCH_ADAPTERS, FeatureCache({}))
    finally:
        del family.module.ask
    return answered


@pytest.mark.parametrize("text", ["v1.2", "No. 5?", "...", "[SEP] . [CLS]", "größe 漢字 🚗", "x" * 3000, " "])
def test_a_label_with_any_signs_is_one_phrase(family: Detector, text: str) -> None:
    assert isinstance(family.module, GroundingDino)
    (prompt,) = family.module.prompts.write([(text,), ("red circle",)])
    ends = [place for place, token in enumerate(prompt.tokens) if token in (101, 102, 1012, 1029)]
    assert [prompt.tokens[place] for place in ends] == [101, 1012, 1012, 102]
    assert [prompt.spans[label] for label in (0, 1)] == [((1, ends[1]),), ((ends[1] + 1, ends[2]),)]
    assert len(prompt.tokens) <= 256
    (logits,) = logits_of(family, prepare(family, picture((64, 64)), ((text,), ("red circle",))))
    assert logits.shape == (20, 2) and bool(logits.isfinite().all())


def test_more_labels_than_a_prompt_has_room_for_are_asked_in_several(family: Detector) -> None:
    """Each label has the scores that it has in a question with the labels of its prompt alone."""
    labels = tuple((f"{word} {number}",) for number in range(40) for word in ("red circle", "blue thing"))
    assert isinstance(family.module, GroundingDino)
    prompts = family.module.prompts.write(labels)
    assert len(prompts) > 1 and all(len(prompt.tokens) <= 256 for prompt in prompts)
    assert sorted(label for prompt in prompts for label in prompt.spans) == list(range(len(labels)))
    image = picture((64, 64))
    found = detect(family, image, labels)
    for prompt in prompts:
        own = sorted(prompt.spans)
        alone = detect(family, image, tuple(labels[label] for label in own))
        for place, label in ((0, own[0]), (len(own) - 1, own[-1])):
            best = scores(alone, place)[:5]
            assert best and scores(found, label)[:5] == pytest.approx(best, abs=1e-4)


def test_a_picture_goes_through_the_backbone_once_whatever_is_asked(family: Detector) -> None:
    cache = FeatureCache({FEATURES: 10**7})
    image, calls = picture((64, 64)), []
    assert isinstance(family.module, GroundingDino)
    hook = family.module.backbone.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    try:
        rows = [prepare(family, image), prepare(family, image, LABELS[:1])]
        outputs = family.predict(rows, [None, None], NO_BATCH_ADAPTERS, cache)
        recalled = family.recall(
            question(LABELS[:1]), lambda _: digest(png(image)), None, NO_BATCH_ADAPTERS, cache
        )
        assert recalled is not None and recalled.pixels is None
        (again,) = family.predict([recalled], [None], NO_BATCH_ADAPTERS, cache)
    finally:
        hook.remove()
    assert calls == [1]
    assert isinstance(again, Boxes) and isinstance(outputs[1], Boxes)
    assert scores(again, 0) == pytest.approx(scores(outputs[1], 0), abs=1e-5)


def test_boxes_with_a_backbone_in_bfloat16_are_within_a_pixel(folder: Path, family: Detector) -> None:
    image = picture((64, 64))
    exact, rough = (prepare_and_ask(each, image) for each in (family, load(folder, torch.bfloat16)))
    assert rough.logits.dtype == torch.float32
    # Most queries stand at the same places; others were chosen in another order.
    distances = torch.cdist(rough.corners, exact.corners, p=float("inf")).amin(1)
    assert float(distances.quantile(0.8)) < 1 / 64


def prepare_and_ask(family: Detector, image: Image.Image) -> object:
    places: list[object] = []
    original = family.module.ask
    family.module.ask = lambda *args: [places.extend(found := original(*args)), found][1]  # type: ignore
    try:
        family.predict([prepare(family, image)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    finally:
        del family.module.ask
    return places[0]


def test_a_head_is_fitted_on_queries_and_changes_the_answer(family: Detector) -> None:
    examples, space = [], ""
    truths = [BoxTarget((((0.1, 0.1, 0.3, 0.3), 0),)), BoxTarget((((0.5, 0.5, 0.8, 0.8), 0),))]
    for seed, truth in enumerate(truths):
        prepared = family.for_features(prepare(family, picture((64, 64), seed)), truth)
        (features,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(features, Features) and features.dim == family.head_dim
        examples.append(Example.of(question(), features, truth))
        space = features.space
    head = fit_head(examples, space)
    asked = prepare(family, picture((64, 64), 0))
    (with_head,) = family.predict([family.with_head(asked, head)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    without = detect(family, picture((64, 64), 0))
    assert isinstance(with_head, Boxes) and scores(with_head, 0) != scores(without, 0)
    assert scores(with_head, 1) == scores(without, 1), "no picture has the other label"


def drawn(count: int) -> list[tuple[bytes, BoxTarget]]:
    """Scenes with red circles, label 0, and blue squares, label 1, which no words say."""
    scenes = itertools.islice(random_scenes(11, (64, 64), pairs=(("red", "circle"), ("blue", "square"))), count)
    labels = {"red": 0, "blue": 1}
    return [
        (
            png(scene.draw()),
            BoxTarget(tuple(sorted((thing.corners, labels[thing.colour]) for thing in scene.things))),
        )
        for scene in scenes
    ]


@pytest.mark.parametrize(
    ("annotated", "steps", "least"),
    [
        pytest.param(4, 150, (0.7, 0.0), marks=pytest.mark.long),
        pytest.param(60, 300, (0.4, 0.3), marks=pytest.mark.long),
    ],
)
def test_lora_teaches_a_model_that_knows_nothing_where_things_are(
    folder: Path, annotated: int, steps: int, least: tuple[float, float]
) -> None:
    """The base model has random weights: all that is found is what LoRA and the matching loss have taught.

    With a few pictures these are learned by heart; with more, things are found in pictures that nobody annotated.
    """
    family, names = load(folder, settings=Settings()), ("red circle", "grade A")
    asked = question(tuple((name,) for name in names))
    scenes = drawn(annotated + 20)
    truths = [target for _, target in scenes]
    prepared = [family.prepare(asked, lambda _, file=file: file) for file, _ in scenes]  # type: ignore[misc]
    examples = [
        PreparedExample(TrainingExample((number,), number, asked, target, None, True), each)
        for number, (target, each) in enumerate(zip(truths, prepared, strict=True))
    ]

    def score(part: slice) -> float:
        nobody = [None] * len(prepared[part])
        outputs = family.predict(prepared[part], nobody, NO_BATCH_ADAPTERS, FeatureCache({}))
        return float(box_metrics(truths[part], outputs, names).values["map_50"])

    learned, unseen = slice(annotated), slice(annotated, None)
    before = score(learned)
    recipe = lora.Recipe(8, 3e-3, steps, min(8, annotated), steps, 0, "float32")
    with lora.adapted(family, asked, None, recipe) as model:
        generator = torch.Generator().manual_seed(0)
        precomputed = lora.precompute(family, model, examples[learned], generator)
        lora.fine_tune(family, model, precomputed, recipe, lambda _: None)
        after = score(learned), score(unseen)
    assert before < 0.1 and after[0] > least[0] and after[1] >= least[1], f"mAP@50 {before:.2f} -> {after}"


@pytest.mark.parametrize("towers", ["text", "both"])
def test_every_layer_that_is_trained_has_a_part_in_the_loss(folder: Path, towers: str) -> None:
    family = load(folder, settings=Settings(lora_towers=towers))
    (file, target), (other, _) = drawn(2)
    prepared = [family.prepare(question(), lambda _, file=each: file) for each in (file, other)]  # type: ignore[misc]
    layers = set(family.trained_layers(question()))
    assert any(layer.startswith("backbone.") for layer in layers) is (towers == "both")
    for name, weight in family.module.named_parameters():
        if "bbox_embed" in name:
            # They begin with zeros, through which no gradient goes.
            torch.nn.init.normal_(weight, std=0.02)
        weight.requires_grad_(name.removesuffix(".weight") in layers)
    loss = family.loss(prepared, [target, BoxTarget(())])
    assert loss.shape == (2,) and bool(loss.isfinite().all())
    loss.sum().backward()
    silent = {
        name
        for name, weight in family.module.named_parameters()
        if weight.requires_grad and (weight.grad is None or not weight.grad.abs().sum() > 0)
    }
    assert not silent


def test_the_loss_is_about_the_same_in_bfloat16(family: Detector) -> None:
    ((file, target),) = drawn(1)
    precomputed = family.precompute([family.prepare(question(), lambda _: file)] * 2, (), None)
    exact = family.loss(precomputed, [target] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = family.loss(precomputed, [target] * 2)
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)


def test_masks_by_labels_have_such_a_detector_too(folder: Path, tmp_path: Path) -> None:
    source = AND.join((f"local-dir:{folder}", Segmenter.tiny(tmp_path)))
    pipeline = MaskPipeline.load(source, torch.device("cpu"), torch.float32, Settings())
    (content,) = question().contents
    asked = LabelledMasksInput(contents=(content,), labels=LABELS)
    prepared = pipeline.prepare(asked, lambda _: png(picture((120, 90))))
    (masks,) = pipeline.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(masks, Masks) and masks.masks and (masks.width, masks.height) == (120, 90)


def test_another_class_of_models_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "detr"}))
    with pytest.raises(SettingsError, match=r"MODEL_DETECTOR=.*model_type is 'detr', expected one of owlv2, mm-"):
        load(tmp_path)
