"""Tests of `audio_text_encoder` against transformers' own zero-shot pipeline and PEFT, with a tiny CLAP of random
weights."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer, ClapFeatureExtractor, ClapModel
from transformers.pipelines import ZeroShotAudioClassificationPipeline

from lorabel.contracts import Content, Input, LabelsInput, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import SettingsError
from lorabel.explanation_contracts import ExplanationInput
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.prepared_input import PreparedInput
from lorabel.families.loading import family_for
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.audio_files import Samples, chirp, encoded, noise, tone
from tests.model_server.test_adapters import save_random_adapter

LABELS = ("a low tone", "a hiss", "a rising tone")
QUESTION = LabelsInput(
    contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="x")),),
    labels=tuple((text,) for text in LABELS),
)
SHORT = (tone(200), noise(3, 1.0), chirp(200, 4000, 0.8))
LONG = chirp(200, 4000, 2.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return AudioTextEncoder.tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def family(source: str) -> AudioTextEncoder:
    return load(source)


def load(source: str, settings: Settings | None = None) -> AudioTextEncoder:
    return AudioTextEncoder.load(source, torch.device("cpu"), torch.float32, settings or Settings())


def prepare(family: AudioTextEncoder, sound: Samples) -> PreparedInput:
    return family.prepare(QUESTION, lambda _: encoded(sound, "pcm_f32le"))


def plain_features(source: str, sound: Samples) -> torch.Tensor:
    """(dim,) of length 1: the features of a sound of one window, as transformers computes them."""
    folder = source.removeprefix("local-dir:")
    extractor = ClapFeatureExtractor.from_pretrained(folder)
    inputs = extractor(sound, sampling_rate=16_000, return_tensors="pt")
    inputs["input_features"] = inputs["input_features"].float()
    with torch.inference_mode():
        return ClapModel.from_pretrained(folder).eval().get_audio_features(**inputs).pooler_output[0]


def test_probabilities_are_those_of_transformers_own_pipeline(family: AudioTextEncoder, source: str) -> None:
    """Tolerance: a ten-thousandth of each probability."""
    folder = source.removeprefix("local-dir:")
    pipeline = ZeroShotAudioClassificationPipeline(
        model=ClapModel.from_pretrained(folder).eval(),
        feature_extractor=ClapFeatureExtractor.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
    )
    outputs = family.predict(
        [prepare(family, sound) for sound in SHORT], [None] * 3, NoBatchAdapters(), FeatureCache({})
    )
    for sound, output in zip(SHORT, outputs, strict=True):
        scores = pipeline(sound, candidate_labels=list(LABELS), hypothesis_template="{}")
        expected = {score["label"]: score["score"] for score in scores}
        probabilities = dict(zip(LABELS, output.probabilities, strict=True))
        assert probabilities == pytest.approx(expected, rel=1e-4)
    assert max(np.std([output.probabilities for output in outputs], axis=0)) > 0.005, "sounds must differ"


def test_the_features_of_a_long_sound_are_the_mean_of_windows_that_cover_it(
    family: AudioTextEncoder, source: str
) -> None:
    prepared = prepare(family, LONG)
    assert prepared.contents[0].data.shape[0] == 3
    windows = [plain_features(source, LONG[start : start + 16_000]) for start in (0, 12_000, 24_000)]
    expected = torch.nn.functional.normalize(torch.stack(windows).mean(0), dim=-1)
    features = family.encode(Modality.AUDIO, [prepared.contents[0].data])[0]
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


def test_a_sound_is_cut_off_at_the_length_in_the_settings(source: str) -> None:
    short = load(source, Settings(audio_max_s=2.0))
    assert prepare(short, LONG).contents[0].data.shape[0] == 2


def test_lora_reaches_every_linear_layer_of_both_towers(family: AudioTextEncoder) -> None:
    layers = set(family.lora_layers())
    attention = "audio_model.audio_encoder.layers.1.blocks.1"
    for name in ("attention.self.query", "attention.self.value", "attention.output.dense", "intermediate.dense"):
        assert f"{attention}.{name}" in layers
    assert {
        "audio_projection.linear2",
        "text_projection.linear1",
        "text_model.encoder.layer.1.output.dense",
    } <= layers
    audio, text = family.tower(Modality.AUDIO), family.tower(Modality.TEXT)
    assert audio | text == set(family.tower_layers())
    assert not audio & text
    assert {name.split("_")[0] for name in audio} == {"audio"}
    assert family.trained_layers(QUESTION) == sorted(text)


@pytest.mark.slow
def test_all_windows_of_a_sound_get_its_adapter_in_a_mixed_batch_as_with_peft(source: str, tmp_path: Path) -> None:
    """One batch of sounds with one window and with three, with and without adapters."""
    adapter_folders = AdapterFolders(tmp_path)
    first, second = (
        save_random_adapter(load(source), adapter_folders, version, 4) for version in ("p1.v1", "p2.v1")
    )
    family = load(source)
    bank = AdapterBank(family, adapter_folders, 10**9)
    sounds = (SHORT[0], LONG, SHORT[1], LONG[::-1].copy(), SHORT[2])
    adapters = [first, second, None, first, second]
    prepared_inputs = [prepare(family, sound) for sound in sounds]
    cache = FeatureCache({FEATURES: 10**6})
    family.predict(prepared_inputs, adapters, bank, cache)
    for prepared, adapter in zip(prepared_inputs, adapters, strict=True):
        content = prepared.contents[0]
        alone = load(source)
        if adapter is not None:
            PeftModel.from_pretrained(alone.module, adapter_folders.path(adapter))
        with torch.inference_mode():
            expected = alone.encode(Modality.AUDIO, [content.data])[0]
        mixed = cache.get(FEATURES, (Modality.AUDIO, content.digest, adapter))
        torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-4)


def test_a_second_question_about_a_sound_is_answered_from_the_cache(family: AudioTextEncoder) -> None:
    cache = FeatureCache({FEATURES: 10**6, DECODED: 10**7, TEXTS: 10**6})
    prepared = prepare(family, SHORT[0])
    (output,) = family.predict([prepared], [None], NoBatchAdapters(), cache)
    recalled = family.recall(QUESTION, lambda _: prepared.contents[0].digest, None, NoBatchAdapters(), cache)
    assert recalled is not None
    assert family.answer(recalled, None, NoBatchAdapters(), cache) == output


def test_a_model_that_fuses_long_sounds_gets_windows_too(tmp_path: Path) -> None:
    """The model's own way, parts at random places, would give another answer each time."""
    torch.manual_seed(0)
    folder = tmp_path / "fused"
    source = AudioTextEncoder.tiny(folder)
    config = ClapModel.from_pretrained(folder).config
    config.audio_config.enable_fusion, config.audio_config.fusion_type = True, "aff_2d"
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor.from_pretrained(folder, truncation="fusion").save_pretrained(folder)
    fused = load(source)
    data = [prepare(fused, LONG).contents[0].data for _ in range(2)]
    assert data[0].shape[:2] == (3, 4)
    with torch.inference_mode():
        first, second = fused.encode(Modality.AUDIO, data)
    torch.testing.assert_close(first, second)


def test_questions_about_sounds_are_answered_by_this_family() -> None:
    assert family_for(QUESTION) is AudioTextEncoder


def test_the_error_for_a_model_that_cannot_be_loaded_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"MODEL_AUDIO_TEXT_ENCODER='local-dir:.*nowhere' cannot be loaded"):
        load(f"local-dir:{tmp_path}/nowhere")


def test_a_sound_is_explained_against_silence(family: AudioTextEncoder) -> None:
    """From outside: the model is asked about files of silence in place of the sounds."""
    contents = tuple(Content(modality=Modality.AUDIO, media=MediaRef(url=name)) for name in "ab")
    question = LabelsInput(contents=contents, labels=QUESTION.labels)
    silence = np.zeros_like(SHORT[0])

    def ask(asked: Input, *sounds: Samples) -> Any:
        files = {name: encoded(sound, "pcm_f32le") for name, sound in zip("ab", sounds, strict=True)}
        prepared = family.prepare(asked, lambda media: files[media.url])
        return family.predict([prepared], [None], NoBatchAdapters(), FeatureCache({}))[0]

    def log_odds(*sounds: Samples) -> float:
        chance = ask(question, *sounds).probabilities[1]
        return math.log(chance / (1 - chance))

    (piece,) = ExplanationInput.of(question, 1, 1)
    explained = ask(piece, *SHORT[:2])
    losses = [log_odds(SHORT[0], other) - log_odds(silence, other) for other in (SHORT[1], silence)]
    assert abs(np.mean(losses)) > 0.001
    assert explained.contents[0].weight == pytest.approx(np.mean(losses), abs=1e-4)
