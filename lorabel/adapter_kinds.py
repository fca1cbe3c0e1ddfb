"""The kinds of adapters that LORA_KIND names, and which kinds a setting rules out. Does not import torch.

All are trained by PEFT: LoRA (https://arxiv.org/abs/2106.09685), rank-stabilized LoRA
(https://arxiv.org/abs/2312.03732), DoRA (https://arxiv.org/abs/2402.09353), AdaLoRA
(https://arxiv.org/abs/2303.10512) and IA3 (https://arxiv.org/abs/2205.05638).
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

LoraKind = Literal["lora", "rslora", "dora", "adalora", "ia3"]
KINDS: tuple[str, ...] = get_args(LoraKind)
LORA, RSLORA, DORA, ADALORA, IA3 = KINDS
GENERATOR = "generator"
OF_SERVERS = (LORA, RSLORA)
"""What vLLM computes, to which GENERATOR_URL hands adapters over."""


def kind_of(config: Mapping[str, Any]) -> str | None:
    """Return the kind of an adapter that PEFT saved; None if it is none of KINDS.

    Args:
        config: `adapter_config.json`.
    """
    kind = str(config.get("peft_type")).lower()
    if kind == LORA:
        return DORA if config.get("use_dora") else RSLORA if config.get("use_rslora") else LORA
    return kind if kind in (ADALORA, IA3) else None


def refused_kind(
    lora_kind: str, lora_kinds: Mapping[str, str], *, has_server: bool, is_in_4_bits: bool
) -> str | None:
    """Return what is wrong with the settings LORA_KIND and LORA_KIND_<FAMILY>, as a sentence; else None.

    Args:
        has_server: whether GENERATOR_URL is set.
        is_in_4_bits: whether GENERATOR_4BIT is set.
    """
    for family, kind in lora_kinds.items():
        if kind not in KINDS:
            return f"LORA_KIND_{family.upper()}={kind!r} is no kind of adapter; expected one of {', '.join(KINDS)}"
    of_generator = lora_kinds.get(GENERATOR, lora_kind)
    fault = None
    if has_server and of_generator not in OF_SERVERS:
        fault = f"the server at GENERATOR_URL computes only {' and '.join(OF_SERVERS)}"
    elif is_in_4_bits and of_generator == DORA:
        fault = "DoRA needs the norms of weights, which GENERATOR_4BIT keeps in 4 bits"
    if fault is None:
        return None
    return f"the generator's adapters are to be {of_generator}, but {fault}; set LORA_KIND_GENERATOR=lora"
