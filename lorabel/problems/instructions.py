"""What a model that writes is told: the project's own instruction, else that of the label config.

Also which control tags such a model answers that are answered by other families otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorabel.labeling.label_config import ControlTag

# Attributes of a control tag that may hold the instruction; the first that is set is used.
INSTRUCTION_ATTRIBUTES = ("prompt", "hint", "placeholder")
# Keys of a project's extra params: its own instruction, which goes before those of the label config, and the
# control tags that the generator answers.
INSTRUCTION, GENERATOR = "instruction", "generator"
# By control tag the words of a project's transcripts, which `lorabel.database.vocabularies` keeps.
WORDS = "words"


@dataclass(frozen=True)
class Asking:
    """How a control tag is asked about.

    Args:
        instruction: what a model that writes is told; "" if neither project nor label config say anything.
        is_written: whether the project has the generator answer; None: the setting GENERATOR_PROBLEMS says.
    """

    instruction: str = ""
    is_written: bool | None = None


def asking(control: ControlTag, extra_params: Mapping[str, Any]) -> Asking:
    """Return how a control tag is asked about in a project.

    Args:
        extra_params: of the project. `generator` is true or false for all control tags, or a list of their names.
            `instruction`: see `project_instruction`.
    """
    instruction = project_instruction(control.name, extra_params) or own_instruction(control) or control.header
    chosen = extra_params.get(GENERATOR)
    if isinstance(chosen, list):
        return Asking(instruction, control.name in chosen)
    is_extractive = control.attributes.get("extractive", "false").lower() == "true"
    return Asking(instruction, chosen if isinstance(chosen, bool) else is_extractive or None)


def own_instruction(control: ControlTag) -> str:
    """Return the instruction that the control tag itself has; "" for none."""
    texts = (control.attributes.get(name, "").strip() for name in INSTRUCTION_ATTRIBUTES)
    return next(filter(None, texts), "")


def project_instruction(from_name: str, extra_params: Mapping[str, Any]) -> str:
    """Return the project's own instruction: a text, or an object with a text for each control tag; "" for none."""
    value = extra_params.get(INSTRUCTION)
    instruction = value.get(from_name) if isinstance(value, Mapping) else value
    return instruction.strip() if isinstance(instruction, str) else ""
