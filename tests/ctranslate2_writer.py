"""Writes a Whisper model of transformers as CTranslate2's converter does, so that what is read again is known."""

import json
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

KINDS: dict[torch.dtype, int] = {
    torch.float32: 0,
    torch.int8: 1,
    torch.int16: 2,
    torch.int32: 3,
    torch.float16: 4,
    torch.bfloat16: 5,
}


def write_ctranslate2(module: Any, tokenizer: Any, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the folder.

    Args:
        dtype: of the weights. int8 and int16 are for matrices; all else is float32 then.
    """
    folder.mkdir(parents=True)
    variables = _variables(module)
    if dtype in (torch.int8, torch.int16):
        variables = _quantized(variables, dtype)
    else:
        variables = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in variables.items()
        }
    tied = [name for name in variables if name.startswith("decoder/embeddings/")]
    aliases = {name.replace("embeddings", "projection"): name for name in tied}
    (folder / "model.bin").write_bytes(file_of(variables, aliases))
    (folder / "config.json").write_text(
        json.dumps(
            {
                "suppress_ids": module.generation_config.suppress_tokens,
                "suppress_ids_begin": module.generation_config.begin_suppress_tokens,
            }
        )
    )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def file_of(
    variables: dict[str, Tensor], aliases: dict[str, str], version: int = 6, spec: str = "WhisperSpec"
) -> bytes:
    """The bytes of `model.bin`."""
    parts = [struct.pack("<I", version), _text(spec), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        data = value.contiguous().view(torch.uint8 if value.ndim else value.dtype).numpy().tobytes()
        shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        parts += [_text(name), shape, struct.pack("<BI", KINDS[value.dtype], len(data)), data]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [_text(alias) + _text(name) for alias, name in aliases.items()]
    return b"".join(parts)


def _text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def _quantized(variables: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    quantized = {}
    for name, value in variables.items():
        if value.ndim != 2 or "position" in name:
            quantized[name] = value
            continue
        largest = torch.iinfo(dtype).max
        if dtype == torch.int8:
            scale = largest / value.abs().amax(1)
            rounded = (value * scale[:, None]).round()
        else:
            scale = torch.tensor(1000.0)
            rounded = (value * scale).round()
        quantized |= {name: rounded.to(dtype), f"{name}_scale": scale}
    return quantized


def _variables(module: Any) -> dict[str, Tensor]:
    config, state = module.config, {name: value.detach() for name, value in module.state_dict().items()}
    variables = {
        "decoder/embeddings/weight": state["model.decoder.embed_tokens.weight"],
        "encoder/num_heads": torch.tensor(config.encoder_attention_heads, dtype=torch.int16),
        "decoder/num_heads": torch.tensor(config.decoder_attention_heads, dtype=torch.int16),
    }

    def linear(target: str, *names: str) -> None:
        variables[f"{target}/weight"] = torch.cat([state[f"{name}.weight"] for name in names])
        biases = [state.get(f"{name}.bias", torch.zeros(len(state[f"{name}.weight"]))) for name in names]
        variables[f"{target}/bias"] = torch.cat(biases)

    def norm(target: str, name: str) -> None:
        variables[f"{target}/gamma"], variables[f"{target}/beta"] = state[f"{name}.weight"], state[f"{name}.bias"]

    for side, count in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        variables[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for index in range(count):
            ours, theirs = f"model.{side}.layers.{index}", f"{side}/layer_{index}"
            parts = [f"{ours}.self_attn.{name}_proj" for name in "qkv"]
            linear(f"{theirs}/self_attention/linear_0", *parts)
            linear(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            if side == "decoder":
                query, *others = (f"{ours}.encoder_attn.{name}_proj" for name in "qkv")
                linear(f"{theirs}/attention/linear_0", query)
                linear(f"{theirs}/attention/linear_1", *others)
                linear(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
            linear(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            linear(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    for number in (1, 2):
        linear(f"encoder/conv{number}", f"model.encoder.conv{number}")
    return variables
