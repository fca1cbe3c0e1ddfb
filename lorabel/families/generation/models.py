"""Loads the model of a generator: a vision-language model, or a causal language model, of transformers."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
)

from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE, transformers_name
from lorabel.families.generation.pictures import VISION_MODELS, PictureReader
from lorabel.families.generation.prompts import ChatTokenizer
from lorabel.families.generation.quantization import quantized
from lorabel.settings import Settings

# Kinds of layers whose states are keys and values, which the rows of a batch can share.
SERVED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})


@dataclass(frozen=True)
class Model:
    """A model with what reads for it.

    Attributes:
        reader: reads pictures; None if the model reads only texts.
        max_prompt_tokens: of a prompt.
        max_new_tokens: of an answer.
    """

    module: Any
    tokenizer: ChatTokenizer
    reader: PictureReader | None
    max_prompt_tokens: int
    max_new_tokens: int


def load_model(source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Model:
    """Load `hf-hub:owner/name` or `local-dir:folder`.

    Raises:
        SettingsError: it is no model that is served.
    """
    name = transformers_name(source)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        text_config = config.get_text_config()
        _check_layers(text_config)
        positions = getattr(text_config, "max_position_embeddings", None) or 1 << 30
        max_new_tokens = min(settings.generator_max_new_tokens, positions // 2)
        max_prompt_tokens = min(settings.generator_max_prompt_tokens, positions - max_new_tokens)
        reads_pictures = config.model_type in VISION_MODELS
        if reads_pictures:
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            tokenizer = ChatTokenizer.of(processor.tokenizer, processor)
            reader = PictureReader.of(processor, tokenizer.template_tokens, max_prompt_tokens, settings)
        else:
            tokenizer = ChatTokenizer.of(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
            reader = None
        model_type = AutoModelForImageTextToText if reads_pictures else AutoModelForCausalLM
        module = model_type.from_pretrained(
            name,
            dtype=LOAD_DTYPE,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation="sdpa",
            **quantized(settings, device, dtype),
        )
    except Exception as error:
        raise SettingsError(
            f"MODEL_GENERATOR={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
            f"local-dir:folder of a vision-language model ({', '.join(sorted(VISION_MODELS))}) or a causal "
            "language model of transformers with safetensors, a fast tokenizer and a chat template"
        ) from error
    module.requires_grad_(False).eval()
    if not settings.generator_4bit:  # else it is on the device already
        module.to(device=device, dtype=dtype)
    return Model(module, tokenizer, reader, max_prompt_tokens, max_new_tokens)


def _check_layers(config: Any) -> None:
    """Raise ValueError for a model whose layers keep other states than keys and values."""
    others = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if others:
        raise ValueError(f"its layers of kind {', '.join(sorted(others))} are not served")
