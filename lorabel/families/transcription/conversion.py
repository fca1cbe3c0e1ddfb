"""Turns a Whisper model of CTranslate2, as faster-whisper reads it, into one of transformers.

    model.bin               the weights                                        -> model.safetensors
    config.json             which tokens are never written                     -> generation_config.json
    tokenizer.json          as transformers has it                             -> tokenizer.json
    preprocessor_config.json of some models: how spectrograms are computed     -> preprocessor_config.json

CTranslate2 stores the projections of queries, keys and values as one matrix. That of keys has no bias in Whisper.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from lorabel.errors import SettingsError
from lorabel.families.transcription.ctranslate2_file import CTranslate2File, read_file
from lorabel.families.transcription.speech_tokens import END, LANGUAGE, MULTILINGUAL_FROM, NO_TIMESTAMPS, START

MODEL_FILE = "model.bin"
SPEC = "WhisperSpec"
LAYER = re.compile(r"(encoder|decoder)/layer_\d+/self_attention/linear_0/weight")
EXTRACTOR_FILE = "preprocessor_config.json"
TASKS = ("transcribe", "translate")


def is_ctranslate2(folder: Path) -> bool:
    """Whether a folder has a model in the format of CTranslate2."""
    return (folder / MODEL_FILE).is_file() and not list(folder.glob("*.safetensors"))


def convert(source: Path, folder: Path) -> None:
    """Write the model of one folder into another, as `from_pretrained` of transformers reads it, in float16.

    Weights of 8 or 16 bits become what they stand for.

    Raises:
        SettingsError: the source is no Whisper model of CTranslate2, or a file of it is missing.
    """
    file = read_file(source / MODEL_FILE)
    if file.spec != SPEC:
        raise SettingsError(
            f"{str(source)!r} has a model of the kind {file.spec!r}, expected a Whisper model ({SPEC})"
        )
    named = _json(source / "config.json")
    tokenizer = _tokenizer(source / "tokenizer.json")
    try:
        config = _config(file, tokenizer)
        module = WhisperForConditionalGeneration(config)
        module.load_state_dict(dict(_state(file, config)))
    except (KeyError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"{str(source)!r} has weights that are not those of a Whisper model: {error}"
        ) from error
    module.generation_config = _generation(config, named, tokenizer)
    module.to(torch.float16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _extractor(source, config).save_pretrained(folder)


def _config(file: CTranslate2File, tokenizer: PreTrainedTokenizerFast) -> WhisperConfig:
    """The sizes of the model, which the shapes of its weights tell."""
    vocabulary, width = file.variables["decoder/embeddings/weight"].shape
    sides: dict[str, int] = {}
    for side in ("encoder", "decoder"):
        sides[f"{side}_layers"] = sum(
            name.startswith(f"{side}/") for name in file.variables if LAYER.fullmatch(name)
        )
        sides[f"{side}_attention_heads"] = file.number(f"{side}/num_heads")
        sides[f"{side}_ffn_dim"] = file.variables[f"{side}/layer_0/ffn/linear_0/weight"].shape[0]
    end = tokenizer.convert_tokens_to_ids(END)
    return WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        num_mel_bins=file.variables["encoder/conv1/weight"].shape[1],
        max_source_positions=file.variables["encoder/position_encodings/encodings"].shape[0],
        max_target_positions=file.variables["decoder/position_encodings/encodings"].shape[0],
        decoder_start_token_id=tokenizer.convert_tokens_to_ids(START),
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        begin_suppress_tokens=None,  # they are in the other file
        **sides,
    )


def _state(file: CTranslate2File, config: WhisperConfig) -> Iterator[tuple[str, Tensor]]:
    """The weights by the names that transformers gives them."""
    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        yield f"model.{side}.embed_positions.weight", file.weight(f"{side}/position_encodings/encodings")
        yield from _norm(file, f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(count):
            layer, target = f"{side}/layer_{index}", f"model.{side}.layers.{index}"
            yield from _attention(file, f"{layer}/self_attention", f"{target}.self_attn", ("q", "k", "v"))
            if side == "decoder":
                yield from _attention(file, f"{layer}/attention", f"{target}.encoder_attn", ("q",), ("k", "v"))
            yield from _norm(file, f"{layer}/ffn/layer_norm", f"{target}.final_layer_norm")
            yield from _linear(file, f"{layer}/ffn/linear_0", [f"{target}.fc1"])
            yield from _linear(file, f"{layer}/ffn/linear_1", [f"{target}.fc2"])
    for number in (1, 2):
        yield from _linear(file, f"encoder/conv{number}", [f"model.encoder.conv{number}"])
    yield "model.decoder.embed_tokens.weight", file.weight("decoder/embeddings/weight")
    yield "proj_out.weight", file.weight("decoder/projection/weight")


def _attention(
    file: CTranslate2File, source: str, target: str, *fused: tuple[str, ...]
) -> Iterator[tuple[str, Tensor]]:
    """An attention layer, with its norm.

    Args:
        fused: the projections that each matrix has, one below the other. The output's comes after them.
    """
    yield from _norm(file, f"{source}/layer_norm", f"{target}_layer_norm")
    for number, projections in enumerate((*fused, ("out",))):
        yield from _linear(file, f"{source}/linear_{number}", [f"{target}.{name}_proj" for name in projections])


def _linear(file: CTranslate2File, source: str, targets: list[str]) -> Iterator[tuple[str, Tensor]]:
    """A linear layer, or a convolution, of equal parts one below the other."""
    for kind in ("weight", "bias"):
        for part, target in zip(file.weight(f"{source}/{kind}").chunk(len(targets)), targets, strict=True):
            if not (kind == "bias" and target.endswith("k_proj")):
                yield f"{target}.{kind}", part


def _norm(file: CTranslate2File, source: str, target: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{target}.weight", file.weight(f"{source}/gamma")
    yield f"{target}.bias", file.weight(f"{source}/beta")


def _generation(
    config: WhisperConfig, named: dict[str, Any], tokenizer: PreTrainedTokenizerFast
) -> GenerationConfig:
    """What transformers' `generate` needs to know."""
    is_multilingual = config.vocab_size >= MULTILINGUAL_FROM
    multilingual: dict[str, Any] = {}
    if is_multilingual:
        tokens = tokenizer.get_vocab()
        multilingual = {
            "lang_to_id": {token: index for token, index in tokens.items() if LANGUAGE.fullmatch(token)},
            "task_to_id": {task: tokens[f"<|{task}|>"] for task in TASKS},
        }
    return GenerationConfig(
        is_multilingual=is_multilingual,
        decoder_start_token_id=config.decoder_start_token_id,
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS),
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        bos_token_id=config.bos_token_id,
        suppress_tokens=named.get("suppress_ids"),
        begin_suppress_tokens=named.get("suppress_ids_begin"),
        alignment_heads=named.get("alignment_heads"),
        max_length=config.max_target_positions,
        return_timestamps=False,
        **multilingual,
    )


def _tokenizer(file: Path) -> PreTrainedTokenizerFast:
    if not file.is_file():
        raise SettingsError(
            f"there is no {str(file)!r}; copy the tokenizer.json of the original Whisper model there"
        )
    try:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file), bos_token=END, eos_token=END, unk_token=END)
        known = tokenizer.get_vocab()
    except Exception as error:
        raise SettingsError(f"{str(file)!r} cannot be read as a tokenizer: {error}") from error
    missing = [token for token in (START, END, NO_TIMESTAMPS) if token not in known]
    if missing:
        raise SettingsError(f"{str(file)!r} lacks {', '.join(missing)}, expected the tokenizer of a Whisper model")
    return tokenizer


def _extractor(source: Path, config: WhisperConfig) -> WhisperFeatureExtractor:
    if (source / EXTRACTOR_FILE).is_file():
        return WhisperFeatureExtractor.from_pretrained(source)
    return WhisperFeatureExtractor(feature_size=config.num_mel_bins)


def _json(file: Path) -> dict[str, Any]:
    try:
        named = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{str(file)!r} cannot be read: {error}; expected the config.json of CTranslate2"
        ) from error
    if not isinstance(named, dict):
        raise SettingsError(f"{str(file)!r} has {type(named).__name__}, expected an object")
    return named
