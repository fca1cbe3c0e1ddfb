"""The base models of the speed figures, with random weights, which are as fast as trained ones.

- a ViT-B-32 of open_clip;
- a ViT of 224 px with one narrow layer, which takes a quarter of a millisecond for a picture;
- an OWLv2 with a tower of that size, on pictures of 384 px: the default, OWLv2 base, reads 3600 patches, and would
  take many seconds for each picture on a CPU;
- SAM 2.1 hiera tiny, which is the default.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from torch import nn
from transformers import Owlv2ImageProcessor, Sam2Config, Sam2ImageProcessor, Sam2Model

from lorabel.families.detection.owlv2 import byte_level_tokenizer, random_model

ARCHITECTURE = "ViT-B-32"
DETECTOR_SIDE_PX, DETECTOR_PATCH_PX = 384, 32
TEXT_TOKENS = 32
# Of the logits: with it, some of the patches find something, as in a real picture.
DETECTOR_SHIFT = -0.77


def vit_b_32(folder: Path) -> str:
    """The model's source for MODEL_DUAL_ENCODER. The first call writes the model, 605 MB, into the folder."""
    return _open_clip(folder / "vit-b-32", open_clip.get_model_config(ARCHITECTURE))


def weightless(folder: Path) -> str:
    """The source for MODEL_DUAL_ENCODER of a model that takes pictures of 224 px and computes almost nothing."""
    tower = {"layers": 1, "width": 32}
    vision = {**tower, "image_size": 224, "patch_size": 32, "head_width": 32}
    text = {**tower, "context_length": 77, "vocab_size": 49408, "heads": 1}
    return _open_clip(folder / "weightless", {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text})


def _open_clip(model_folder: Path, model_config: dict[str, Any]) -> str:
    """The source of a model of open_clip with random weights, which the first call writes into the folder."""
    weights = model_folder / "open_clip_model.safetensors"
    if not weights.exists():
        model_folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        config = {"model_cfg": model_config, "preprocess_cfg": preprocess}
        (model_folder / "open_clip_config.json").write_text(json.dumps(config))
        module = open_clip.create_model(f"local-dir:{model_folder}", load_weights=False)
        incomplete = model_folder / "incomplete.safetensors"
        save_file(module.state_dict(), incomplete)
        incomplete.rename(weights)
    return f"local-dir:{model_folder}"


def owlv2(folder: Path) -> str:
    """The model's source for MODEL_DETECTOR. The first call writes the model, about 600 MB, into the folder."""
    model_folder = folder / "owlv2"
    if not (model_folder / "preprocessor_config.json").exists():
        torch.manual_seed(0)
        text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
        picture = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        sizes = {"image_size": DETECTOR_SIDE_PX, "patch_size": DETECTOR_PATCH_PX}
        config = {
            "projection_dim": 512,
            "text_config": {**text, "num_hidden_layers": 12, "max_position_embeddings": TEXT_TOKENS},
            "vision_config": {**picture, "num_hidden_layers": 12, **sizes},
        }
        tokenizer = byte_level_tokenizer(sorted(pre_tokenizers.ByteLevel.alphabet()), (), TEXT_TOKENS)
        tokenizer.save_pretrained(model_folder)
        model = random_model(config, tokenizer)
        nn.init.constant_(model.class_head.logit_shift.bias, DETECTOR_SHIFT)
        model.save_pretrained(model_folder)
        size = {"height": DETECTOR_SIDE_PX, "width": DETECTOR_SIDE_PX}
        Owlv2ImageProcessor(size=size).save_pretrained(model_folder)
    return f"local-dir:{model_folder}"


def sam2(folder: Path) -> str:
    """The model's source for MODEL_SEGMENTER. The first call writes the model, about 160 MB, into the folder."""
    model_folder = folder / "sam2"
    if not (model_folder / "preprocessor_config.json").exists():
        torch.manual_seed(0)
        Sam2Model(Sam2Config()).save_pretrained(model_folder)
        Sam2ImageProcessor().save_pretrained(model_folder)
    return f"local-dir:{model_folder}"
