"""Writes adapters of many projects, as PEFT saves them, with a random B so that each changes the answer."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lorabel.database.adapter_folders import AdapterFolders

# q, k, v and the MLP of the image tower: the goals are stated for these layers.
LAYERS = r"visual\..*\.(q_proj|k_proj|v_proj|c_fc|c_proj)"
STD = 0.02


def write(
    module: nn.Module, folders: AdapterFolders, first_project: int, count: int, rank: int, layers: str = LAYERS
) -> list[str]:
    """Write one adapter for each of `count` projects, and leave the module as it was.

    Args:
        layers: as PEFT's `target_modules`.

    Returns:
        The adapters' names, `p<project>.v1/label`.
    """
    torch.manual_seed(first_project)
    model = get_peft_model(module, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))
    b_weights = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    versions = [f"p{project}.v1" for project in range(first_project, first_project + count)]
    for version in versions:
        for weight in b_weights:
            nn.init.normal_(weight, std=STD)
        folders.write(version, lambda folder: model.save_pretrained(folder / "label"))
    model.unload()
    return [f"{version}/label" for version in versions]
