"""The segmenter against transformers' own numbers, and its cache of embeddings."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import Sam2ImageProcessor, Sam2Model

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.segmentation.mask_logits import STRIP_PX, runs_at_size
from lorabel.families.segmentation.small_sam2 import small_config, with_initial_weights
from lorabel.families.segmenter import MASKS_PER_STEP, PROMPTS_PER_BATCH, Segmenter
from lorabel.labeling.bit_masks import mask_of, runs_of
from lorabel.mask_contracts import Masks, MasksInput, MasksTarget, Point, Prompt
from lorabel.media.fetching import digest
from lorabel.settings import Settings

pytestmark = pytest.mark.slow

WIDTH, HEIGHT = 300, 200
CLICK = Prompt(label=1, points=(Point(x=0.3, y=0.4),))
SIGNED = Prompt(label=0, points=(Point(x=0.3, y=0.4), Point(x=0.8, y=0.1, is_positive=False)))
BOX = Prompt(label=0, corners=(0.1, 0.2, 0.6, 0.9))
BOTH = Prompt(label=0, points=(Point(x=0.3, y=0.4),), corners=(0.1, 0.2, 0.6, 0.9))
URL = MediaRef(url="http://pictures.test/1.png")


def photo(size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0, orientation: int = 1) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    image, file, exif = Image.fromarray(pixels).resize(size), io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    torch.manual_seed(1)
    source = Segmenter.tiny(tmp_path_factory.mktemp("segmenter"))
    return Segmenter.load(source, torch.device("cpu"), torch.float32, Settings())


def ask(*prompts: Prompt) -> MasksInput:
    return MasksInput(contents=(Content(modality=Modality.IMAGE, media=URL),), prompts=prompts)


def answers(family: Segmenter, questions: Sequence[Any], cache: FeatureCache | None = None) -> list[Masks]:
    rows = [None] * len(questions)
    outputs = family.predict(questions, rows, NO_BATCH_ADAPTERS, cache or FeatureCache({}))
    return [Masks.model_validate(output) for output in outputs]


@pytest.mark.parametrize("prompt", [CLICK, SIGNED, BOX, BOTH], ids=["click", "signs", "box", "box and click"])
def test_a_mask_is_the_one_of_transformers(family: Segmenter, prompt: Prompt) -> None:
    file = photo()
    processor = Sam2ImageProcessor.from_pretrained(family.source.removeprefix("local-dir:"))
    pixels = processor(Image.open(io.BytesIO(file)), return_tensors="pt")
    arguments: dict[str, Any] = {}
    if prompt.points:
        places = [[point.x * family.side_px - 0.5, point.y * family.side_px - 0.5] for point in prompt.points]
        arguments["input_points"] = torch.tensor([[places]])
        arguments["input_labels"] = torch.tensor([[[int(point.is_positive) for point in prompt.points]]])
    if prompt.corners:
        arguments["input_boxes"] = torch.tensor([[prompt.corners]]) * family.side_px - 0.5
    with torch.inference_mode():
        output = family.module(pixel_values=pixels["pixel_values"], multimask_output=False, **arguments)
    (expected,) = processor.post_process_masks(output.pred_masks, [(HEIGHT, WIDTH)])
    (answer,) = answers(family, [family.prepare(ask(prompt), lambda _: file)])
    assert (answer.width, answer.height) == (WIDTH, HEIGHT)
    (mask,) = answer.masks
    assert mask.label == prompt.label
    assert mask.probability == pytest.approx(float(output.iou_scores[0, 0, 0]), abs=1e-2)
    found, right = mask_of(mask.runs, WIDTH, HEIGHT), expected[0, 0].numpy()
    assert 0 < right.mean() < 1
    assert (found == right).mean() > 0.99  # pixels are averaged a little differently


def test_pictures_and_prompts_of_all_kinds_in_one_batch_are_what_each_is_alone(family: Segmenter) -> None:
    questions = [
        family.prepare(ask(CLICK, BOX), lambda _: photo(seed=0)),
        family.prepare(ask(SIGNED), lambda _: photo((90, 120), seed=1)),
        family.prepare(ask(), lambda _: photo(seed=2)),
        family.prepare(ask(BOTH, CLICK), lambda _: photo(seed=3)),
    ]
    together = answers(family, questions)
    alone = [answers(family, [question])[0] for question in questions]
    assert [len(answer.masks) for answer in together] == [2, 1, 0, 2]
    assert (together[1].width, together[1].height) == (90, 120)
    for one, other in zip(together, alone, strict=True):
        for first, second in zip(one.masks, other.masks, strict=True):
            size = one.width, one.height
            assert (mask_of(first.runs, *size) == mask_of(second.runs, *size)).mean() > 0.999


def test_an_embedding_is_computed_once_and_later_clicks_need_no_picture(family: Segmenter) -> None:
    file, cache = photo(), FeatureCache({EMBEDDINGS: 10**7})

    def recalled(*prompts: Prompt) -> Any:
        return family.recall(ask(*prompts), lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)

    assert recalled(CLICK) is None
    (opened,) = answers(family, [family.prepare(ask(), lambda _: file)], cache)
    assert opened == Masks(masks=(), width=WIDTH, height=HEIGHT)
    assert family.answer(recalled(), None, NO_BATCH_ADAPTERS, cache) == opened
    later = recalled(CLICK)
    assert later.pixels is None
    assert family.answer(later, None, NO_BATCH_ADAPTERS, cache) is None
    assert answers(family, [later], cache) == answers(family, [family.prepare(ask(CLICK), lambda _: file)])
    assert cache.figures()[EMBEDDINGS]["bytes"] == later.embedding.nbytes > 0


def test_masks_have_the_size_of_the_picture_as_people_see_it(family: Segmenter) -> None:
    (answer,) = answers(family, [family.prepare(ask(CLICK), lambda _: photo(orientation=6))])
    assert (answer.width, answer.height) == (HEIGHT, WIDTH)
    assert sum(answer.masks[0].runs) == WIDTH * HEIGHT


@pytest.mark.parametrize("size", [(7, 5), (640, 480), (3, 900)])
def test_a_mask_is_brought_to_size_as_torch_does(size: tuple[int, int]) -> None:
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    width, height = size
    large = functional.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)
    difference = mask_of(runs_at_size(logits.numpy(), width, height), width, height) != (large[0, 0] > 0).numpy()
    assert difference.mean() < 0.001


def test_a_mask_of_several_strips_is_whole() -> None:
    logits = np.ones((4, 4), np.float32)
    width, height = STRIP_PX // 2, 5
    assert runs_at_size(logits, width, height) == runs_of(np.ones((height, width), bool))


def test_what_is_no_picture_is_refused_for_good(family: Segmenter) -> None:
    with pytest.raises(UnreadableError, match="no readable picture"):
        family.prepare(ask(CLICK), lambda _: b"GIF89a")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MODEL_SEGMENTER"):
        Segmenter.load(f"local-dir:{tmp_path}", torch.device("cpu"), torch.float32, Settings())


def test_a_new_model_knows_where_a_point_is_in_the_picture() -> None:
    """transformers draws two matrices of positions, so that a point has nothing in common with its place."""
    model = Sam2Model(small_config(32, (8, 16, 24, 32), 32))
    points, picture = model.prompt_encoder.shared_embedding, model.shared_image_embedding
    assert not torch.equal(points.positional_embedding, picture.positional_embedding)
    with_initial_weights(model)
    assert torch.equal(points.positional_embedding, picture.positional_embedding)


CROWD = tuple(
    Prompt(label=number, points=(Point(x=number / 100, y=0.5),)) for number in range(2 * PROMPTS_PER_BATCH + 6)
)


def test_the_prompts_of_a_crowded_picture_are_decoded_in_parts(
    family: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt of SAM 2.1 takes 17 MB for the picture's embedding alone."""
    rows: list[int] = []
    decode = Segmenter._decode

    def counted(self: Segmenter, inputs: Any, prompts: Any) -> Any:
        rows.append(len(inputs))
        return decode(self, inputs, prompts)

    monkeypatch.setattr(Segmenter, "_decode", counted)
    prepared = family.prepare(ask(*CROWD), lambda media: photo())
    (together,) = answers(family, [prepared])
    assert rows == [PROMPTS_PER_BATCH, PROMPTS_PER_BATCH, 6]
    (alone,) = answers(family, [family.prepare(ask(CROWD[-1]), lambda media: photo())])
    assert [mask.label for mask in together.masks] == [prompt.label for prompt in CROWD]
    assert together.masks[-1].runs == alone.masks[0].runs


def test_a_step_learns_some_masks_of_a_crowded_picture_each_with_its_prompt(family: Segmenter) -> None:
    prepared = family.prepare(ask(*CROWD), lambda media: photo())
    target = MasksTarget(
        tuple(((0, prompt.label + 1, 99 - prompt.label), prompt.label) for prompt in CROWD), 10, 10
    )
    generator, seen = torch.Generator().manual_seed(0), set()
    for _ in range(2):
        (chosen,), (moved,) = family.augment([prepared], [target], generator)
        labels = [label for _, label in moved.masks]
        assert labels == [prompt.label for prompt in chosen.question.prompts]
        assert len(labels) == len(set(labels)) == MASKS_PER_STEP
        seen.add(tuple(labels))
    assert len(seen) == 2
    few = family.prepare(ask(CLICK), lambda media: photo())
    assert family.augment([few], [target], generator) == ([few], [target])
