"""Models of CTranslate2 become models of transformers with the same answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import SettingsError
from lorabel.evaluation.transcript_metrics import transcripts
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.speech import Speech
from lorabel.families.transcription.conversion import convert, is_ctranslate2
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.settings import Settings
from lorabel.text_contracts import TranscriptInput
from tests import whisper_tiny
from tests.ctranslate2_writer import file_of, write_ctranslate2

# Largest change of a logit. The weights of the tiny model are about 0.2, its logits about 3.
TOLERANCES = {
    torch.float32: 0.02,  # what is written has float16
    torch.float16: 0.02,
    torch.bfloat16: 0.2,
    torch.int16: 0.05,
    torch.int8: 0.4,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny model and its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "base"
    write_speech_model(folder)
    return loaded(folder)


def loaded(folder: Path) -> tuple[Any, Any]:
    module = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return module.eval(), AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def source(original: tuple[Any, Any], tmp_path: Path) -> Path:
    write_ctranslate2(*original, tmp_path / "ctranslate2")
    return tmp_path / "ctranslate2"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@torch.no_grad()
def test_a_converted_model_answers_as_the_original(
    dtype: torch.dtype, original: tuple[Any, Any], tmp_path: Path
) -> None:
    module, tokenizer = original
    write_ctranslate2(module, tokenizer, tmp_path / "ctranslate2", dtype)
    assert is_ctranslate2(tmp_path / "ctranslate2")
    convert(tmp_path / "ctranslate2", tmp_path / "converted")
    assert not is_ctranslate2(tmp_path / "converted")
    converted, converted_tokenizer = loaded(tmp_path / "converted")
    mel, tokens = torch.randn(2, 16, 100), torch.randint(0, 200, (2, 7))
    expected, logits = (
        model(input_features=mel, decoder_input_ids=tokens).logits for model in (module, converted)
    )
    assert float((logits - expected).abs().max()) <= TOLERANCES[dtype] < 0.2 * float(expected.std() * 4)
    assert converted_tokenizer.get_vocab() == tokenizer.get_vocab()
    for name in ("suppress_tokens", "begin_suppress_tokens", "no_timestamps_token_id", "decoder_start_token_id"):
        assert getattr(converted.generation_config, name) == getattr(module.generation_config, name)


def test_a_file_that_is_cut_off_or_of_another_version_or_kind_has_a_reason(source: Path, tmp_path: Path) -> None:
    file, target = source / "model.bin", tmp_path / "converted"
    whole = file.read_bytes()
    for cut in (0, 3, 20, len(whole) // 2, len(whole) - 3):
        file.write_bytes(whole[:cut])
        with pytest.raises(SettingsError, match=r"cannot be read as a model of CTranslate2: it ends too early"):
            convert(source, target)
    file.write_bytes(file_of({}, {}, version=5))
    with pytest.raises(SettingsError, match="it is of version 5"):
        convert(source, target)
    file.write_bytes(file_of({}, {}, spec="TransformerSpec"))
    with pytest.raises(SettingsError, match="a model of the kind 'TransformerSpec', expected a Whisper model"):
        convert(source, target)
    file.write_bytes(file_of({}, {}))
    with pytest.raises(SettingsError, match="weights that are not those of a Whisper model"):
        convert(source, target)
    file.unlink()
    with pytest.raises(SettingsError, match="cannot be read as a model of CTranslate2"):
        convert(source, target)
    assert not target.exists()


def test_files_that_are_missing_or_of_another_model_have_a_reason(source: Path, tmp_path: Path) -> None:
    tokenizer, target = source / "tokenizer.json", tmp_path / "converted"
    settings = json.loads(tokenizer.read_text())
    tokenizer.write_text(
        json.dumps({**settings, "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}})
    )
    with pytest.raises(SettingsError, match=r"lacks <\|startoftranscript\|>"):
        convert(source, target)
    tokenizer.write_text("{")
    with pytest.raises(SettingsError, match="cannot be read as a tokenizer"):
        convert(source, target)
    tokenizer.unlink()
    with pytest.raises(SettingsError, match=r"copy the tokenizer\.json of the original Whisper model there"):
        convert(source, target)
    for text in ("[]", "{", ""):
        (source / "config.json").write_text(text)
        with pytest.raises(SettingsError, match=r"config\.json"):
            convert(source, target)
    assert not target.exists()


@pytest.mark.slow
@pytest.mark.long
def test_whisper_tiny_writes_down_what_espeak_ng_says(tmp_path: Path) -> None:
    convert(whisper_tiny.folder(), tmp_path / "whisper")
    family = Speech.load(f"local-dir:{tmp_path / 'whisper'}", torch.device("cpu"), torch.float32, Settings())
    question = TranscriptInput(contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),))
    sentences = [*whisper_tiny.SENTENCES]
    # Together they are longer than what the model hears at once.
    spoken = [*sentences, " ".join(5 * sentences)]
    files = [whisper_tiny.spoken(text) for text in spoken]
    prepared = [family.prepare(question, lambda _, file=file: file) for file in files]
    assert [len(sound.windows) for sound in prepared] == [1, 1, 1, 2]
    outputs: Any = family.predict(prepared, [None] * len(files), NO_BATCH_ADAPTERS, FeatureCache({}))
    texts = [output.text for output in outputs]
    assert texts[:3] == sentences
    assert transcripts(spoken[3:], texts[3:]).values["word_error_rate"] <= 0.05, texts[3]
    assert all(output.probability > 0.7 and output.is_complete for output in outputs)
