"""Tiny vision-language models of transformers with random weights, of several architectures."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from lorabel.families.generation.tiny_models import (
    IDS,
    LANGUAGE_CONFIG,
    PICTURE_TOKENS,
    SPECIAL_TOKENS,
    TEMPLATE,
    byte_tokenizer,
    write_vision_language_model,
)

QWEN_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
QWEN_TEMPLATE = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
VISION: dict[str, Any] = {"num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}


def write_smolvlm(folder: Path) -> str:
    """Pictures are squares of one size."""
    torch.manual_seed(0)
    return write_vision_language_model(folder)


def write_idefics3(folder: Path) -> str:
    """Pictures are cut into tiles of 16 x 16 pixels, each of 4 placeholders, with one of all together."""
    torch.manual_seed(0)
    tiles = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
    tokenizer = byte_tokenizer((*SPECIAL_TOKENS, *PICTURE_TOKENS, *tiles))
    pictures = Idefics3ImageProcessor(size={"longest_edge": 48}, max_image_size={"longest_edge": 16})
    Idefics3Processor(pictures, tokenizer, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(folder)
    config = Idefics3Config(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **LANGUAGE_CONFIG},
        vision_config={
            **VISION,
            "num_hidden_layers": 2,
            "image_size": 16,
            "patch_size": 4,
            "initializer_range": 0.2,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **IDS,
    )
    return _save(Idefics3ForConditionalGeneration(config), folder)


def write_qwen2_5_vl(folder: Path) -> str:
    """Pictures keep their shape, and positions have three parts."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer((*SPECIAL_TOKENS, *QWEN_TOKENS))
    processor = Qwen2_5_VLProcessor(
        _qwen_pictures(4), tokenizer, Qwen2VLVideoProcessor(patch_size=4), chat_template=QWEN_TEMPLATE
    )
    processor.save_pretrained(folder)
    vision = {**VISION, "num_heads": 2, "depth": 2, "out_hidden_size": 32, "patch_size": 4, "window_size": 16}
    config = Qwen2_5_VLConfig(
        text_config=_qwen_text(tokenizer, "mrope_section"),
        vision_config={**vision, "fullatt_block_indexes": [1]},
        **_qwen_ids(tokenizer),
    )
    return _save(Qwen2_5_VLForConditionalGeneration(config), folder)


def write_qwen3_vl(folder: Path) -> str:
    """As Qwen2.5-VL, with features that are added to the first layers (DeepStack)."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer((*SPECIAL_TOKENS, *QWEN_TOKENS))
    processor = Qwen3VLProcessor(
        _qwen_pictures(4), tokenizer, Qwen3VLVideoProcessor(patch_size=4), chat_template=QWEN_TEMPLATE
    )
    processor.save_pretrained(folder)
    config = Qwen3VLConfig(
        text_config={**_qwen_text(tokenizer, "mrope_section"), "head_dim": 8},
        vision_config={
            **VISION,
            "num_heads": 2,
            "depth": 3,
            "out_hidden_size": 32,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": 0.2,
        },
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    return _save(Qwen3VLForConditionalGeneration(config), folder)


def _qwen_pictures(patch_px: int) -> Qwen2VLImageProcessor:
    return Qwen2VLImageProcessor(
        patch_size=patch_px, merge_size=2, size={"shortest_edge": 8 * 8, "longest_edge": 48 * 48}
    )


def _qwen_text(tokenizer: PreTrainedTokenizerFast, section: str) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, section: [2, 1, 1]}
    return {"vocab_size": len(tokenizer), "rope_parameters": rope, **LANGUAGE_CONFIG}


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return dict(zip(names, map(tokenizer.convert_tokens_to_ids, QWEN_TOKENS), strict=True))


def _save(model: Any, folder: Path) -> str:
    model.generation_config = GenerationConfig(**IDS)
    model.save_pretrained(folder)
    return f"local-dir:{folder}"
