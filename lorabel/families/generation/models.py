"""Loads the model of a generator: a vision-language model, or a causal language model, of transformers."""

from dataclasses import dataclass
from typing import Any, Self

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


@dataclass(frozen=True)
class Reading:
    """How a model is asked: the same in training, in serving, and where a server has the model.

    Attributes:
        config: of the model, as transformers has it.
        processor: of a vision-language model; None for a language model.
        max_prompt_tokens: of a prompt.
        max_new_tokens: of an answer.
    """

    config: Any
    tokenizer: ChatTokenizer
    processor: Any
    max_prompt_tokens: int
    max_new_tokens: int

    @classmethod
    def load(cls, name: str, settings: Settings) -> Self:
        """Load all but the weights.

        Raises:
            Exception: whatever transformers raises for a folder or a name that it cannot read.
        """
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        positions = getattr(config.get_text_config(), "max_position_embeddings", None) or 1 << 30
        max_new_tokens = min(settings.generator_max_new_tokens, positions // 2)
        max_prompt_tokens = min(settings.generator_max_prompt_tokens, positions - max_new_tokens)
        processor = None
        if config.model_type in VISION_MODELS:
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
            tokenizer = ChatTokenizer.of(processor.tokenizer, processor)
        else:
            tokenizer = ChatTokenizer.of(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
        return cls(config, tokenizer, processor, max_prompt_tokens, max_new_tokens)


def load_model(source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Model:
    """Load `hf-hub:owner/name` or `local-dir:folder`.

    Raises:
        SettingsError: it is no model that is served.
    """
    name = transformers_name(source)
    try:
        reading = Reading.load(name, settings)
        _check_layers(reading.config.get_text_config())
        tokenizer, processor, reader = reading.tokenizer, reading.processor, None
        if processor is not None:
            template, longest = tokenizer.template_tokens, reading.max_prompt_tokens
            reader = PictureReader.of(processor, template, longest, settings)
        model_type = AutoModelForCausalLM if processor is None else AutoModelForImageTextToText
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
    return Model(module, tokenizer, reader, reading.max_prompt_tokens, reading.max_new_tokens)


def _check_layers(config: Any) -> None:
    """Raise ValueError for a model whose layers keep other states than keys and values."""
    others = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if others:
        raise ValueError(f"its layers of kind {', '.join(sorted(others))} are not served")
