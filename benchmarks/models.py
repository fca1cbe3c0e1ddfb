"""The base model of the speed figures: a ViT-B-32 with random weights, which cost the same as trained ones."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

ARCHITECTURE = "ViT-B-32"


def vit_b_32(folder: Path) -> str:
    """Its source for MODEL_DUAL_ENCODER; written once, 605 MB."""
    made = folder / "vit-b-32"
    weights = made / "open_clip_model.safetensors"
    if not weights.exists():
        made.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        module = open_clip.create_model(ARCHITECTURE)
        preprocess = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        config = {"model_cfg": open_clip.get_model_config(ARCHITECTURE), "preprocess_cfg": preprocess}
        (made / "open_clip_config.json").write_text(json.dumps(config))
        aside = made / "aside.safetensors"
        save_file(module.state_dict(), aside)
        aside.rename(weights)
    return f"local-dir:{made}"
