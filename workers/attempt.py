"""What a run makes of one control tag's annotations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel

from lorabel.contracts import MediaRef
from lorabel.feature_contracts import Features
from workers import lora
from workers.acceptance import Judgement
from workers.calibration import Calibration
from workers.examples import TrainingExample


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
    """

    candidate: Candidate | None
    skipped: dict[int, str]
    left: frozenset[int] = frozenset()
    decision: str = ""
    judgement: Judgement | None = None


@dataclass(frozen=True)
class TrainingContext:
    """Where a candidate starts.

    Args:
        live: the live adapter's folder; None if the base model is live.
        resolve: media reference -> the reference to fetch it by.
        needs_new: whether there is nothing to learn where live exists and no example to train on is new. Also
            whether too few annotated tasks end the run; a run that a person asked for needs neither.
    """

    live: Path | None
    resolve: Callable[[MediaRef], MediaRef]
    needs_new: bool = False


def save_adapter(model: PeftModel, folder: Path) -> None:
    """In PEFT's own format. `save_embedding_layers` is off because it would ask a hub about the base model."""
    model.save_pretrained(folder, selected_adapters=[lora.CANDIDATE], save_embedding_layers=False)
