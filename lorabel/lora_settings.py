"""The settings of new adapters. They are read as a part of `lorabel.settings.Settings`."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from lorabel.adapter_kinds import LoraKind


class LoraSettings(BaseSettings):
    """The field `lora_rank` is the environment variable LORA_RANK, and so on."""

    lora_kind: LoraKind = Field(
        "lora",
        description="Kind of new adapters, all trained by PEFT: `lora`, `rslora`, `dora`, `adalora` or `ia3`.",
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
