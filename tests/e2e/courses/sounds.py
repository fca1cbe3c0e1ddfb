"""Low tones, high tones and noise, for a CLAP model with random weights."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.labeling.regions import choices
from tests.audio_files import Samples, encoded, noise, tone
from tests.e2e.courses import Course, LabeledTask, data_url

NAMES = ("hum", "whistle", "hiss")
TASKS = 80


def _tasks() -> list[LabeledTask]:
    rng = np.random.default_rng(0)
    return [
        (
            {"audio": data_url(encoded(_sound(NAMES[i % 3], rng), "flac", "flac"), "audio/flac")},
            [choices("label", "audio", [NAMES[i % 3]])],
        )
        for i in range(TASKS)
    ]


def _sound(name: str, rng: np.random.Generator) -> Samples:
    if name == "hiss":
        return noise(int(rng.integers(10**6)))
    return tone(rng.uniform(150, 400) if name == "hum" else rng.uniform(2000, 4000))


def _variables(folder: Path) -> Mapping[str, str]:
    torch.manual_seed(0)
    return {"MODEL_AUDIO_TEXT_ENCODER": AudioTextEncoder.tiny(folder)}


COURSE = Course(
    label_config='<View><Audio name="audio" value="$audio"/><Choices name="label" toName="audio">'
    + "".join(f'<Choice value="{name}"/>' for name in NAMES)
    + "</Choices></View>",
    make_tasks=_tasks,
    variables=_variables,
    primary={"label": "accuracy"},
)
