"""A tiny generator that was taught a few answers, so that tests can tell whether it was asked the right question.

It is the tiny model of the family with all its weights trained, which takes seconds.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from lorabel.families.generator import Generator
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, TextTarget


def write_model(folder: Path, examples: Sequence[tuple[TextInput, str]], steps: int = 300) -> str:
    """Write the model.

    Args:
        examples: questions, each with its answer.
        steps: most steps of training, with all examples in each.

    Returns:
        Its source for `Family.load`.
    """
    torch.manual_seed(0)
    source = Generator.tiny(folder)
    family = Generator.load(source, torch.device("cpu"), torch.float32, Settings())
    inputs = [family.prepare(question, lambda media: b"") for question, _ in examples]
    targets = [TextTarget(answer) for _, answer in examples]
    family.module.requires_grad_(True)
    optimizer = torch.optim.AdamW(family.module.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = family.loss(inputs, targets).mean()
        if loss.item() < 0.005:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    family.module.save_pretrained(folder)
    return source
