"""The settings of new adapters. They are read as a part of `lorabel.settings.Settings`."""

import os
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from lorabel.adapter_kinds import LoraKind


def variables_by_name(prefix: str) -> dict[str, str]:
    """The variables that begin with a prefix, by the rest of their names in lower case.

    A sample: `MODEL_DUAL_ENCODER=...` becomes `{"dual_encoder": ...}`. The rest may be the name of any family or
    problem, also one of another package.
    """
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in os.environ.items()
        if name.startswith(prefix) and not name.startswith("MODEL_SERVER_") and value
    }


class LoraSettings(BaseSettings):
    """The field `lora_rank` is the environment variable LORA_RANK, and so on."""

    lora_kind: LoraKind = Field(
        "lora",
        description="Kind of new adapters, all trained by PEFT: `lora`, `rslora`, `dora`, `adalora` or `ia3`.",
    )
    lora_kinds: dict[str, str] = Field(
        default_factory=lambda: variables_by_name("LORA_KIND_"),
        description="`LORA_KIND_<FAMILY>`, e.g. `LORA_KIND_DETECTOR`: LORA_KIND of one family's adapters.",
    )
    lora_rank: int = Field(8, ge=1, description="Rank of new adapters; AdaLoRA's mean rank. IA3 has none.")
    lora_towers: Literal["auto", "text", "both"] = Field(
        "auto",
        description="Towers of encoders that get new adapters: `text`, the one that reads label texts; `both`; or "
        "`auto`, those that read the contents for questions about labels, and `text` for other questions while no "
        "fitted head answers them; see docs/decisions/0009 and 0023.",
    )
    lora_min_tasks: int = Field(
        80,
        ge=2,
        description="Fewest annotated tasks with which LoRA is trained beside a fitted head, unless a person asks "
        "for the run.",
    )
    lora_max_seconds: float = Field(
        900.0,
        gt=0,
        description="Most seconds of optimizer steps for LoRA beside a fitted head, cross-validation included. "
        "Reading media and computing features come on top.",
    )

    def lora_kind_of(self, family: str) -> str:
        """The kind of a family's new adapters."""
        return self.lora_kinds.get(family, self.lora_kind)
