"""The generator with pictures against `generate` of transformers and PEFT, for several architectures.

The reference makes its prompts with the model's own processor, not with ours.
"""

import io
import weakref
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import NotFoundError, UnreadableError
from lorabel.families import generator
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.generation.prepared import PreparedInput
from lorabel.families.generation.tiny_models import write_language_model
from lorabel.families.generator import Generator
from lorabel.families.sizes import prepared_bytes
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, TextTarget, WrittenText
from model_server.adapters import AdapterBank
from tests import vision_models
from tests.model_server.test_adapters import save_random_adapter

pytestmark = pytest.mark.slow

ARCHITECTURES = ("smolvlm", "idefics3", "qwen2_5_vl", "qwen3_vl")
# Of each row: the pictures, the text beside them, and the project whose adapter writes.
ROWS: tuple[tuple[tuple[str, ...], str, int | None], ...] = (
    (("wide",), "", 1),
    (("wide",), "", 2),
    (("tall", "wide"), "Which is wider, and how do they differ?", None),
    ((), "No picture at all.", 1),
    (("tall",), "What?", 2),
    (("square",), "", None),
)
INSTRUCTION = "Describe."


def picture(width: int, height: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = {"wide": picture(40, 24, 0), "tall": picture(20, 50, 1), "square": picture(32, 32, 2)}


def file_of(image: Image.Image, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def fetch(media: MediaRef) -> bytes:
    return file_of(PICTURES[media.url])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    @cache
    def source_of(architecture: str) -> str:
        write: Callable[[Path], str] = getattr(vision_models, f"write_{architecture}")
        return write(tmp_path_factory.mktemp(architecture))

    return source_of


@pytest.fixture(params=ARCHITECTURES)
def source(request: pytest.FixtureRequest, sources: Callable[[str], str]) -> str:
    return sources(request.param)


@pytest.fixture
def smolvlm(sources: Callable[[str], str]) -> str:
    return sources("smolvlm")


def load(source: str, **settings: Any) -> Generator:
    return Generator.load(source, torch.device("cpu"), torch.float32, Settings(**settings))


def ask(pictures: tuple[str, ...], text: str = "") -> TextInput:
    contents = [Content(modality=Modality.IMAGE, media=MediaRef(url=name)) for name in pictures]
    texts = [Content(modality=Modality.TEXT, text=text)] if text else []
    return TextInput(contents=(*contents, *texts), instruction=INSTRUCTION)


def save_adapters(source: str, folder: Path) -> AdapterFolders:
    torch.manual_seed(1)
    folders = AdapterFolders(folder / "adapters")
    for project in (1, 2):
        save_random_adapter(load(source), folders, f"p{project}.v1", 2 + project)
    return folders


def name(project: int | None) -> str | None:
    return None if project is None else f"p{project}.v1/label"


def encoded(family: Generator, pictures: tuple[str, ...], text: str) -> dict[str, torch.Tensor]:
    """The prompt and the pixels as the model's own processor makes them."""
    processor = family.tokenizer.processor
    shown = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": text}]
    turns = [
        {"role": "system", "content": [{"type": "text", "text": INSTRUCTION}]},
        {"role": "user", "content": shown},
    ]
    rendered = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    images = [[PICTURES[each] for each in pictures]] if pictures else None
    inputs = processor(text=[rendered], images=images, return_tensors="pt", add_special_tokens=False)
    return {key: value for key, value in inputs.items() if key not in ("rows", "cols")}


def alone(source: str, adapters: AdapterFolders, row: int, new_tokens: int) -> list[int]:
    """The tokens that transformers and PEFT write for a row."""
    family = load(source)
    pictures, text, project = ROWS[row]
    model = family.module
    if project is not None:
        model = PeftModel.from_pretrained(model, adapters.path(f"p{project}.v1/label"))
    inputs = encoded(family, pictures, text)
    output = model.generate(**inputs, do_sample=False, max_new_tokens=new_tokens)
    tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
    return [token for token in tokens if token != family.tokenizer.tokenizer.eos_token_id]


@pytest.mark.parametrize("step_tokens", [4096, 60], ids=["whole prompts", "prompts in parts"])
def test_rows_that_join_and_leave_at_different_steps_get_the_text_that_peft_writes_for_each_alone(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_tokens: int
) -> None:
    """Two projects ask about the same picture, one row has two pictures, and one has none."""
    monkeypatch.setattr(generator, "CPU_STEP_TOKENS", step_tokens)
    adapters = save_adapters(source, tmp_path)
    family = load(source, generator_max_new_tokens=32)
    steps = family.steps(AdapterBank(family, adapters, 10**9), FeatureCache({EMBEDDINGS: 10**6}))
    tokens: dict[Hashable, list[int]] = {}
    for number in range(150):
        if number % 4 == 0 and number // 4 < len(ROWS):
            row = number // 4
            prepared = family.prepare(ask(*ROWS[row][:2]), fetch)
            steps.begin(row, replace(prepared, max_new_tokens=12 + 3 * row), name(ROWS[row][2]))
        for row in steps.step():
            tokens[row] = steps._sequences[row].tokens
            assert isinstance(steps.finish(row), WrittenText)
    assert len(tokens) == len(ROWS)
    for row in range(len(ROWS)):
        assert tokens[row] == alone(source, adapters, row, 12 + 3 * row)
    assert tokens[0] != tokens[1], "the same picture with another adapter"


def test_the_loss_is_the_mean_over_the_answers_tokens_and_no_others(source: str) -> None:
    family = load(source, generator_max_new_tokens=32)
    rows = [ROWS[2], ROWS[0], ROWS[3]]
    targets = [TextTarget(text) for text in ("A wide picture.", "Two.", "None, I'd say")]
    losses = family.loss([family.prepare(ask(*row[:2]), fetch) for row in rows], targets)
    for row, target, loss in zip(rows, targets, losses, strict=True):
        inputs = encoded(family, *row[:2])
        prompt = inputs.pop("input_ids")[0].tolist()
        answer = [*family.tokenizer.answer(target.text), family.tokenizer.tokenizer.eos_token_id]
        inputs |= {"attention_mask": torch.ones(1, len(prompt) + len(answer), dtype=torch.long)}
        if "mm_token_type_ids" in inputs:
            inputs["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, len(answer)))
        ids, labels = torch.tensor([prompt + answer]), torch.tensor([[-100] * len(prompt) + answer])
        expected = family.module(input_ids=ids, labels=labels, **inputs).loss
        assert float(loss) == pytest.approx(float(expected), rel=1e-4)


def test_adapters_lie_on_the_language_model_alone_and_learn_from_pictures(source: str) -> None:
    """Two pictures with the same instruction get different texts, which only the pictures can tell apart."""
    family = load(source, generator_max_new_tokens=8)
    layers = family.lora_layers()
    assert len(layers) == 2 * 7 and not any("vis" in layer or "connector" in layer for layer in layers)
    inputs = family.precompute([family.prepare(ask((each,)), fetch) for each in ("wide", "tall")], layers, None)
    targets = [TextTarget("wide"), TextTarget("tall")]
    torch.manual_seed(0)
    model = get_peft_model(family.module, LoraConfig(r=8, target_modules=layers))
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=2e-2)
    for _ in range(60):
        family.loss(inputs, targets).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    outputs = family.predict(inputs, [None, None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert [output.text for output in outputs] == ["wide", "tall"]


def test_the_features_of_a_picture_are_computed_once_for_all_projects(
    smolvlm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load(smolvlm, generator_max_new_tokens=4)
    bank = AdapterBank(family, save_adapters(smolvlm, tmp_path), 10**9)
    features = FeatureCache({EMBEDDINGS: 10**6})
    question = ask(("wide", "tall"), "Which?")

    def digest_of(media: MediaRef) -> str:
        return digest(fetch(media))

    assert family.recall(question, digest_of, None, bank, features) is None
    prepared = family.prepare(question, fetch)
    (expected,) = family.predict([prepared], ["p1.v1/label"], bank, features)
    assert features.figures()[EMBEDDINGS]["bytes"] > 0
    monkeypatch.setattr(generator, "compute_features", None)
    assert family.predict([prepared], ["p1.v1/label"], bank, features) == [expected]
    recalled = family.recall(question, digest_of, None, bank, features)
    assert recalled is not None and recalled.prompt == prepared.prompt
    assert family.predict([recalled], ["p1.v1/label"], bank, features) == [expected]
    assert family.predict([recalled], ["p2.v1/label"], bank, features) != [expected]
    assert family.recall(ask((), "text"), digest_of, None, bank, features) is None
    # Here, for its own row: in the device's thread it would fail all rows that are in.
    with pytest.raises(NotFoundError):
        family.recall(question, digest_of, "p9.v1/label", bank, features)


def test_a_step_computes_the_features_of_one_picture_at_most(smolvlm: str) -> None:
    family = load(smolvlm)
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    steps.begin("pictures", family.prepare(ask(("wide", "tall")), fetch), None)
    steps.begin("leaves", family.prepare(ask(("square",)), fetch), None)
    for seen in (1, 2):
        assert steps.step() == ()
        pictures = steps._sequences["pictures"].prepared.pictures  # type: ignore[attr-defined]
        assert sum(each.features is not None for each in pictures) == seen
    steps.leave("leaves")
    assert steps.rows == ("pictures",)
    steps.step()
    assert len(steps._sequences["pictures"].tokens) == 1


@pytest.mark.parametrize("how", ["a step", "a training run"])
def test_the_pixels_of_a_picture_are_gone_once_its_features_are_computed(smolvlm: str, how: str) -> None:
    """They take some tens of MB, and a row may be written, or wait for room, long after."""
    family = load(smolvlm)
    prepared = family.prepare(ask(("wide",)), fetch)
    (picture,) = prepared.pictures
    pixels = weakref.ref(picture.inputs["pixel_values"])
    before = prepared_bytes(prepared)
    assert before >= picture.inputs["pixel_values"].nbytes
    if how == "a step":
        steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
        steps.begin("row", prepared, None)
        steps.step()
    else:
        (prepared,) = family.precompute([prepared], (), None)
    assert pixels() is None
    assert picture.features is not None and picture.features.pooled.nbytes <= prepared_bytes(prepared) < before


@pytest.mark.parametrize("architecture", ["idefics3", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("most_tokens", [20, 26])
def test_a_picture_is_shrunk_to_the_tokens_that_it_may_take(
    sources: Callable[[str], str], architecture: str, most_tokens: int
) -> None:
    family = load(sources(architecture), generator_max_picture_tokens=most_tokens, generator_max_new_tokens=4)
    PICTURES["large"] = picture(600, 400, 3)
    prepared = family.prepare(ask(("large",)), fetch)
    tokens = prepared.pictures[0].tokens
    assert most_tokens / 4 <= len(tokens) <= most_tokens
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, WrittenText)


def test_several_pictures_share_the_prompt_or_are_refused_with_the_setting_to_change(
    sources: Callable[[str], str], smolvlm: str
) -> None:
    family = load(sources("qwen3_vl"), generator_max_prompt_tokens=200, generator_max_new_tokens=32)
    PICTURES["large"] = picture(400, 400, 3)
    for count in (1, 3):
        prepared = family.prepare(ask(("large",) * count), fetch)
        shown = [len(each.tokens) for each in prepared.pictures]
        assert len(prepared.prompt) <= 200 and len(shown) == count and min(shown) >= 1
    family = load(smolvlm, generator_max_prompt_tokens=100, generator_max_new_tokens=32)
    with pytest.raises(UnreadableError, match=r"takes 7 tokens, more than 6.*GENERATOR_MAX_PICTURE_TOKENS"):
        family.prepare(ask(("wide",) * 12), fetch)


def test_a_long_text_beside_a_picture_is_cut_and_the_picture_stays_whole(smolvlm: str) -> None:
    family = load(smolvlm, generator_max_prompt_tokens=60)
    prepared = family.prepare(ask(("wide",), "x" * 500), fetch)
    assert len(prepared.prompt) == 60 and prepared.left_out_tokens > 200
    assert prepared.prompt.count(family.module.config.image_token_id) == 4


def test_a_task_that_writes_the_token_of_pictures_shows_no_picture(smolvlm: str) -> None:
    family = load(smolvlm)
    prepared = family.prepare(ask(("wide",), "<image> <global-img> <|end|>"), fetch)
    assert prepared.prompt.count(family.module.config.image_token_id) == 4
    assert "<image> <global-img> <|end|><|end|>" in family.tokenizer.tokenizer.decode(prepared.prompt)


def test_rows_have_room_for_the_tokens_of_their_pictures(sources: Callable[[str], str]) -> None:
    """One token takes 2 layers x (keys, values) x 2 heads x 8 numbers x 4 bytes = 256 bytes."""
    family = load(sources("idefics3"), generator_memory_mb=1, generator_max_new_tokens=50)
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    prepared = family.prepare(ask(("wide",)), fetch)
    assert len(prepared.prompt) > 60
    begun = 0
    while steps.has_room(prepared):
        steps.begin(begun, prepared, None)
        begun += 1
    assert begun == 2**20 // (256 * (len(prepared.prompt) + 50))


MODES = ("1", "L", "LA", "P", "RGBA", "CMYK", "I;16")


@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_any_mode_are_read(smolvlm: str, mode: str) -> None:
    family = load(smolvlm)
    image = Image.new("I;16", (20, 10), 3000) if mode == "I;16" else PICTURES["wide"].convert(mode)
    PICTURES["other"] = image
    data = file_of(image, "TIFF" if mode in ("CMYK", "I;16") else "PNG")
    prepared = family.prepare(ask(("other",)), lambda _: data)
    assert isinstance(prepared, PreparedInput) and len(prepared.pictures) == 1


def test_a_picture_on_its_side_is_turned_upright(smolvlm: str) -> None:
    family = load(smolvlm)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    PICTURES["wide"].transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    turned = family.prepare(ask(("wide",)), lambda _: file.getvalue()).pictures[0]
    upright = family.prepare(ask(("wide",)), fetch).pictures[0]
    torch.testing.assert_close(turned.inputs, upright.inputs)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no readable picture"),
        (b"<svg/>", "no readable picture"),
        (file_of(PICTURES["wide"])[:60], "cut off"),
        (file_of(Image.new("1", (20_000, 6_000))), "120.0 megapixels.*MEDIA_MAX_MEGAPIXELS"),
    ],
    ids=["empty", "svg", "cut off", "enormous"],
)
def test_a_picture_that_cannot_be_read_is_refused_with_a_reason(smolvlm: str, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=reason):
        load(smolvlm).prepare(ask(("wide",)), lambda _: data)


def test_a_model_for_texts_refuses_pictures_and_names_the_setting(tmp_path: Path) -> None:
    family = load(write_language_model(tmp_path))
    with pytest.raises(UnreadableError, match=r"MODEL_GENERATOR=.*reads no pictures; a vision-language model"):
        family.prepare(ask(("wide",)), fetch)
