"""Tiny models with random weights and a chat template, whose tokens are bytes: for texts, and for pictures too."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

SPECIAL_TOKENS = ("<|pad|>", "<|start|>", "<|end|>")
PICTURE_TOKENS = ("<image>", "<fake_token_around_image>", "<global-img>")
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
LANGUAGE_CONFIG: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # With the usual 0.02 the states of so small a model could not tell its tokens apart.
    "initializer_range": 0.2,
    **IDS,
}
SIDE_PX, PATCH_PX, PATCHES_PER_TOKEN = 16, 4, 2


def write_language_model(folder: Path) -> str:
    """Write a tiny Llama. Returns its source for `Generator.load`."""
    tokenizer = byte_tokenizer(SPECIAL_TOKENS)
    tokenizer.save_pretrained(folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **LANGUAGE_CONFIG)).save_pretrained(folder)
    return f"local-dir:{folder}"


def write_vision_language_model(folder: Path) -> str:
    """Write a tiny SmolVLM with the same language model. A picture becomes 16 x 16 pixels, which are 4 features.

    Returns its source for `Generator.load`.
    """
    tokenizer = byte_tokenizer((*SPECIAL_TOKENS, *PICTURE_TOKENS))
    picture_processor(tokenizer, SIDE_PX, (SIDE_PX // PATCH_PX // PATCHES_PER_TOKEN) ** 2).save_pretrained(folder)
    config = SmolVLMConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **LANGUAGE_CONFIG},
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
            "initializer_range": 0.2,
        },
        scale_factor=PATCHES_PER_TOKEN,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **IDS,
    )
    model = SmolVLMForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**IDS)
    model.save_pretrained(folder)
    return f"local-dir:{folder}"


def byte_tokenizer(special_tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose other tokens are bytes."""
    symbols = [*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return chat_tokenizer(tokenizer, special_tokens)


def chat_tokenizer(tokenizer: Tokenizer, special_tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers, with the template, that knows the special tokens."""
    tokenizer.add_special_tokens(list(special_tokens))
    names = dict(zip(("image_token", "fake_image_token", "global_image_token"), PICTURE_TOKENS, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|start|>",
        eos_token="<|end|>",
        chat_template=TEMPLATE,
        **(names if PICTURE_TOKENS[0] in special_tokens else {}),
    )


def picture_processor(tokenizer: PreTrainedTokenizerFast, side_px: int, placeholders: int) -> SmolVLMProcessor:
    """A processor that makes each picture a square of one size.

    Args:
        placeholders: how many tokens are replaced by the features of a picture.
    """
    side = {"longest_edge": side_px}
    pixels: dict[str, Any] = {
        "size": side,
        "max_image_size": side,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return SmolVLMProcessor(
        SmolVLMImageProcessor(do_image_splitting=False, **pixels),
        tokenizer,
        SmolVLMVideoProcessor(**pixels),
        image_seq_len=placeholders,
        chat_template=TEMPLATE,
    )
