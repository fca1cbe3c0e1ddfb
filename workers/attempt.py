"""What a run makes of one control tag's annotations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel
from safetensors.torch import load_file, save_file

from lorabel.contracts import MediaRef
from lorabel.families.base import Family
from lorabel.feature_contracts import Features
from workers import lora, peft_kinds
from workers.acceptance import Judgement
from workers.calibration import Calibration
from workers.examples import TrainingExample

# The files of PEFT's format.
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Candidate:
    """What became of a candidate.

    Args:
        calibration: of the candidate's scores; None if the problem has no probabilities.
        family: name of the family that it was trained with.
        base_model: the source of the base model, as in the settings.
        loss: the smoothed training loss at the end.
        trained_on: annotation ids.
        task_ids: the tasks that it was trained on, and the tasks that are held out.
        is_beside_head: whether the adapter computes features for a fitted head (`workers.beside_head`).
        rivals_head: whether the adapter was compared with the fitted head, if one answers. If it is accepted, it
            answers in place of the head.
        features: what the head is to be fitted on, for each example that was trained on; empty without a head.
    """

    judgement: Judgement
    calibration: Calibration | None
    family: str
    base_model: str
    loss: float
    trained_on: list[int]
    task_ids: frozenset[int]
    is_beside_head: bool = False
    rivals_head: bool = False
    features: Sequence[tuple[TrainingExample, Features]] = ()


@dataclass(frozen=True)
class Attempt:
    """What a run did with the annotations of a control tag.

    Args:
        candidate: None if there is no adapter: nothing was to learn, or what was learned beside a head was not
            accepted.
        skipped: annotation id -> why nothing was learned from it.
        left: annotations that a limit has left for a later run.
        decision: why nothing was trained, as a sentence; empty if there is nothing to say.
        judgement: of what was learned, also where there is no candidate.
        left_out: annotation id -> which parts of the annotation nothing was learned from, and why.
    """

    candidate: Candidate | None
    skipped: dict[int, str]
    left: frozenset[int] = frozenset()
    decision: str = ""
    judgement: Judgement | None = None
    left_out: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingContext:
    """Where a candidate starts.

    Args:
        live: the live adapter's folder; None if the base model is live.
        resolve: media reference -> the reference to fetch it by.
        needs_new: whether there is nothing to learn where live exists and no example to train on is new. Also
            whether too few annotated tasks end the run; a run that a person asked for needs neither.
        is_against_head: whether the candidate is compared with a fitted head, which answers now or will soon.
        project_id: for which the model server fetches files: those of projects are kept apart.
    """

    live: Path | None
    resolve: Callable[[MediaRef], MediaRef]
    needs_new: bool = False
    is_against_head: bool = False
    project_id: int = 0


def save_adapter(model: PeftModel, family: Family, folder: Path) -> None:
    """Write the adapter in PEFT's own format; of a pipeline also that of each part, into a folder of its name.

    Training goes on from the whole; each part is what the model server loads, and fits the part's base model.
    """
    lora.save(model, folder)
    for part in family.parts:
        _save_part(part, folder)


def _save_part(part: Family, folder: Path) -> None:
    prefix = f"{lora.PREFIX}{part.name}."
    weights = {
        lora.PREFIX + key.removeprefix(prefix): tensor
        for key, tensor in load_file(folder / WEIGHTS).items()
        if key.startswith(prefix)
    }
    config = json.loads((folder / CONFIG).read_text())
    config["base_model_name_or_path"] = part.source
    config["target_modules"] = lora.only(peft_kinds.adapted_layers(weights))
    if ranks := config.get("rank_pattern"):
        own = f"{part.name}."
        config["rank_pattern"] = {
            key.removeprefix(own): kept for key, kept in ranks.items() if key.startswith(own)
        }
    (folder / part.name).mkdir()
    save_file(weights, folder / part.name / WEIGHTS)
    (folder / part.name / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))
