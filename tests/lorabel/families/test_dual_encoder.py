"""Tests of `dual_encoder` against open_clip's own pipeline, with a tiny CLIP of random weights."""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from skimage import data

from lorabel.contracts import LabelScores, LabelTarget, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import SettingsError
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import DECODED, FEATURES, FeatureCache
from lorabel.families.cache import TEXTS as TEXTS_KIND
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.content_encoder import VIEWS
from lorabel.families.encoders.heads.labels import NEUTRAL_TEXTS, TRAINING_SCALE
from lorabel.families.encoders.prepared_input import PreparedInput
from lorabel.media.image import decode_image
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter
from tests.questions import about_picture

pytestmark = pytest.mark.slow

TEXTS = ("a cat", "a rocket", "coffee")
QUESTION = about_picture("x", TEXTS)


def features_of(prepared: PreparedInput) -> torch.Tensor:
    features = prepared.contents[0].features
    assert features is not None
    return features


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def family(source: str) -> DualEncoder:
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())


def photos() -> list[Image.Image]:
    return [Image.fromarray(photo) for photo in (data.chelsea(), data.rocket(), data.coffee())]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def prepare(family: DualEncoder, image: Image.Image, is_multiple: bool = False) -> PreparedInput:
    url = "data:image/png;base64," + base64.b64encode(png(image)).decode()
    question = about_picture(url, TEXTS, is_multiple)
    return family.prepare(question, lambda media: base64.b64decode(media.url.split(",")[1]))


def probabilities_of(outputs: Sequence[LabelScores]) -> torch.Tensor:
    """(outputs, labels)."""
    return torch.tensor([output.probabilities for output in outputs])


@torch.inference_mode()
def plain_open_clip(source: str) -> torch.Tensor:
    """(photos, texts) logits of the model as open_clip loads it, with its fused attention."""
    model, _, transform = open_clip.create_model_and_transforms(source)
    pixels = torch.stack([transform(photo.convert("RGB")) for photo in photos()])
    logits, _ = model.eval().get_logits(pixels, open_clip.get_tokenizer(source)([*TEXTS, *NEUTRAL_TEXTS]))
    return logits


def test_probabilities_are_those_of_open_clip_on_real_photos(family: DualEncoder, source: str) -> None:
    outputs = family.predict(
        [prepare(family, photo) for photo in photos()], [None] * 3, NoBatchAdapters(), FeatureCache({})
    )
    expected = plain_open_clip(source)[:, :3].softmax(-1)
    torch.testing.assert_close(probabilities_of(outputs), expected, rtol=1e-3, atol=1e-4)


def test_each_core_computes_pictures_of_its_own_and_the_family_says_so(family: DualEncoder) -> None:
    """Before, it did not say so, and a slow model had background batches of one picture, on one core."""
    parts: list[int] = []
    hook = family.module.visual.register_forward_hook(lambda _, given, __: parts.append(len(given[0])))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        prepared = [prepare(family, photo) for photo in photos()]
        family.predict(prepared, [None] * 3, NoBatchAdapters(), FeatureCache({}))
    finally:
        torch.set_num_threads(before)
        hook.remove()
    assert sorted(parts) == [1, 2], "of three pictures"
    assert family.divides_rows


def test_multiple_choice_compares_labels_with_the_most_similar_neutral_text(
    family: DualEncoder, source: str
) -> None:
    outputs = family.predict(
        [prepare(family, photo, True) for photo in photos()], [None] * 3, NoBatchAdapters(), FeatureCache({})
    )
    logits = plain_open_clip(source)
    expected = (logits[:, :3] - logits[:, 3:].amax(1, keepdim=True)).sigmoid()
    torch.testing.assert_close(probabilities_of(outputs), expected, rtol=1e-3, atol=1e-4)


def test_text_features_are_computed_once_per_adapter_and_label_set(
    family: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(
        family.module, "encode_text", lambda tokens: calls.append(1) or torch.ones(len(tokens), 32)
    )
    cache = FeatureCache({TEXTS_KIND: 10**6})
    prepared = prepare(family, photos()[0])
    family.predict([prepared, prepared], ["a", "b"], NoBatchAdapters(), cache)
    family.predict([prepared], ["a"], NoBatchAdapters(), cache)
    assert len(calls) == 2 * len(["label texts", "their wordings"])
    assert [cache.get(TEXTS_KIND, (name, TEXTS)) is None for name in "abc"] == [False, False, True]


def test_an_adapter_works_with_more_labels_than_one_batch_of_texts(family: DualEncoder, tmp_path: Path) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    peft = get_peft_model(family.module, LoraConfig(r=2, target_modules=family.lora_layers()))
    adapter_folders.write("p1.v1", lambda folder: peft.save_pretrained(folder / "label"))
    peft.unload()
    bank = AdapterBank(family, adapter_folders, 10**9)
    texts = tuple(f"label {i}" for i in range(300))
    prepared = replace(prepare(family, photos()[0]), question=about_picture("x", texts))
    with_new_adapter, without = (
        family.predict([prepared], [name], bank, FeatureCache({}))[0] for name in ("p1.v1/label", None)
    )
    assert with_new_adapter.probabilities == pytest.approx(without.probabilities, rel=1e-4)


def test_the_loss_is_cross_entropy_and_in_multiple_choice_binary_cross_entropy(
    family: DualEncoder, source: str
) -> None:
    logits = plain_open_clip(source) * TRAINING_SCALE / family.module.logit_scale.exp()
    single = [prepare(family, photo) for photo in photos()]
    targets = [LabelTarget((i,)) for i in (2, 0, 1)]
    expected = torch.nn.functional.cross_entropy(logits[:, :3], torch.tensor([2, 0, 1]), reduction="none")
    torch.testing.assert_close(family.loss(single, targets), expected, rtol=1e-3, atol=1e-3)
    multiple = [prepare(family, photo, True) for photo in photos()]
    targets = [LabelTarget((0, 2)), LabelTarget(()), LabelTarget((1,))]
    truth = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0]])
    differences = logits[:, :3] - logits[:, 3:].amax(1, keepdim=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(differences, truth, reduction="none").mean(1)
    torch.testing.assert_close(family.loss(multiple, targets), expected, rtol=1e-3, atol=1e-3)


def test_precomputed_features_give_the_same_answers_and_several_views(family: DualEncoder) -> None:
    prepared_inputs = [prepare(family, photo) for photo in photos()]
    precomputed = family.precompute(prepared_inputs, family.trained_layers(QUESTION), torch.Generator())
    assert [features_of(prepared).shape for prepared in precomputed] == [(VIEWS, 32)] * 3
    expected = family.predict(prepared_inputs, [None] * 3, NoBatchAdapters(), FeatureCache({}))
    outputs = family.predict(precomputed, [None] * 3, NoBatchAdapters(), FeatureCache({}))
    torch.testing.assert_close(probabilities_of(outputs), probabilities_of(expected))
    views = set()
    for seed in range(40):
        augmented, _ = family.augment(precomputed, [None] * 3, torch.Generator().manual_seed(seed))
        views.add(tuple(features_of(augmented[0])[0].tolist()))
    assert len(views) == VIEWS


def test_without_a_generator_only_the_content_itself_is_precomputed(family: DualEncoder) -> None:
    prepared_inputs = [prepare(family, photo) for photo in photos()]
    trained = family.trained_layers(QUESTION)
    one_view, several = (
        family.precompute(prepared_inputs, trained, generator) for generator in (None, torch.Generator())
    )
    assert [features_of(prepared).shape for prepared in one_view] == [(1, 32)] * 3
    answers = [
        probabilities_of(family.predict(precomputed, [None] * 3, NoBatchAdapters(), FeatureCache({})))
        for precomputed in (one_view, several)
    ]
    torch.testing.assert_close(*answers)


def test_pictures_are_not_precomputed_if_the_image_tower_is_trained(source: str) -> None:
    settings = Settings(lora_towers="both")
    both = DualEncoder.load(source, torch.device("cpu"), torch.float32, settings)
    prepared = prepare(both, photos()[0])
    assert both.precompute([prepared], both.trained_layers(QUESTION), torch.Generator()) == [prepared]
    assert both.trained_layers(QUESTION) == sorted(both.tower_layers())


def test_lora_reaches_q_k_v_and_the_mlp_of_both_towers(family: DualEncoder) -> None:
    layers = family.lora_layers()
    for tower in ("visual.transformer.resblocks.0", "transformer.resblocks.1"):
        for layer in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
            assert f"{tower}.{layer}" in layers


def test_the_error_for_a_model_that_cannot_be_loaded_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_DUAL_ENCODER='local-dir:.*nowhere' cannot be loaded"):
        DualEncoder.load(f"local-dir:{tmp_path}/nowhere", torch.device("cpu"), torch.float32, Settings())


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def large_photos() -> list[Image.Image]:
    """Photos with many times the model's resolution, which are decoded at a reduced scale."""
    arrays = [data.chelsea(), data.rocket(), data.coffee(), data.astronaut(), data.cat()]
    return [Image.fromarray(array).resize((1600, 1200)) for array in arrays]


def test_jpegs_decoded_at_a_reduced_scale_give_nearly_the_features_of_open_clips_pipeline(
    family: DualEncoder, source: str
) -> None:
    """Tolerance: a cosine of 0.999 with the features of the same file decoded at full scale."""
    model, _, transform = open_clip.create_model_and_transforms(source)
    for photo in large_photos():
        file = jpeg(photo)
        question = about_picture("x", TEXTS)
        prepared = family.prepare(question, lambda _, file=file: file)
        decoded = decode_image(file, 100, 64)
        assert decoded.width == photo.width / 8
        with torch.inference_mode():
            expected = model.eval().encode_image(transform(Image.open(io.BytesIO(file)))[None])
            features = family.encode(Modality.IMAGE, [prepared.contents[0].data])
        assert float(torch.nn.functional.cosine_similarity(features, expected)) > 0.999


def recall(
    family: DualEncoder, bank: AdapterBank, cache: FeatureCache, image: Image.Image, adapter: str | None
) -> Any:
    prepared = prepare(family, image)
    question = about_picture("x", TEXTS)
    return family.recall(question, lambda _: prepared.contents[0].digest, adapter, bank, cache)


def test_features_are_cached_by_content_and_by_the_adapter_that_changes_them(
    family: DualEncoder, tmp_path: Path
) -> None:
    adapter_folders = AdapterFolders(tmp_path)
    both = save_random_adapter(family, adapter_folders, "p1.v1", 4)
    text = save_random_adapter(family, adapter_folders, "p1.v2", 4, family.trained_layers(QUESTION))
    bank, cache = (
        AdapterBank(family, adapter_folders, 10**9),
        FeatureCache({FEATURES: 10**6, DECODED: 10**6, TEXTS_KIND: 10**6}),
    )
    photo, other, _ = photos()
    prepared = prepare(family, photo)
    names = (None, text, both)
    fresh = [family.predict([prepared], [name], bank, FeatureCache({}))[0] for name in names]
    family.predict([prepared], [None], bank, cache)
    assert recall(family, bank, cache, other, None) is None
    assert recall(family, bank, cache, photo, text).contents[0].features is not None, "its image tower is the base"
    assert recall(family, bank, cache, photo, both).contents[0].features is None
    assert recall(family, bank, cache, photo, both).contents[0].data is not None, "decoded already"
    recalled = [
        family.predict([recall(family, bank, cache, photo, name)], [name], bank, cache)[0] for name in names
    ]
    torch.testing.assert_close(probabilities_of(recalled), probabilities_of(fresh), rtol=1e-4, atol=0)
    assert len({output.probabilities for output in recalled}) == 3
    answers = [family.answer(recall(family, bank, cache, photo, name), name, bank, cache) for name in names]
    assert answers == recalled


def test_the_cache_cannot_answer_about_labels_that_were_not_encoded(family: DualEncoder) -> None:
    cache = FeatureCache({FEATURES: 10**6, TEXTS_KIND: 10**6})
    prepared = prepare(family, photos()[0])
    family.predict([prepared], [None], NoBatchAdapters(), cache)
    question = about_picture("x", (*TEXTS, "a fourth"))
    recalled = family.recall(question, lambda _: prepared.contents[0].digest, None, NoBatchAdapters(), cache)
    assert recalled is not None and family.answer(recalled, None, NoBatchAdapters(), cache) is None


def test_a_picture_that_is_in_a_batch_twice_goes_through_the_image_tower_once(
    family: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two control tags about one picture are two inputs."""
    batch_sizes = []
    encode = family.module.encode_image
    monkeypatch.setattr(
        family.module, "encode_image", lambda pixels: batch_sizes.append(len(pixels)) or encode(pixels)
    )
    prepared = prepare(family, photos()[0])
    other = replace(prepared, question=about_picture("x", ("warm", "cold")))
    outputs = family.predict([prepared, other], [None, None], NoBatchAdapters(), FeatureCache({}))
    assert batch_sizes == [1]
    assert [len(output.probabilities) for output in outputs] == [3, 2]


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    """open_clip makes a random model of it, and only warns."""
    source = DualEncoder.tiny(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(SettingsError, match=r"MODEL_DUAL_ENCODER=.* cannot be loaded: .*weights"):
        DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())
