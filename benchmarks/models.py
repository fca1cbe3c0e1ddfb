"""The base model of the speed figures: a ViT-B-32 with random weights, which is as fast as a trained one."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

ARCHITECTURE = "ViT-B-32"


def vit_b_32(folder: Path) -> str:
    """The model's source for MODEL_DUAL_ENCODER. The first call writes the model, 605 MB, into the folder."""
    model_folder = folder / "vit-b-32"
    weights = model_folder / "open_clip_model.safetensors"
    if not weights.exists():
        model_folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        module = open_clip.create_model(ARCHITECTURE)
        preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        config = {"model_cfg": open_clip.get_model_config(ARCHITECTURE), "preprocess_cfg": preprocess}
        (model_folder / "open_clip_config.json").write_text(json.dumps(config))
        incomplete = model_folder / "incomplete.safetensors"
        save_file(module.state_dict(), incomplete)
        incomplete.rename(weights)
    return f"local-dir:{model_folder}"
