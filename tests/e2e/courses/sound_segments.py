"""Hums, whistles and hisses at known moments of sounds, for a CLAP model with random weights."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.labeling.regions import sound_segment
from tests.audio_files import encoded
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.sound_scenes import NAMES, drawn_sound

TASKS = 40
LENGTH_S = 6.0


def labeled_tasks(numbers: Iterable[int]) -> list[LabeledTask]:
    """The drawn sounds with these numbers."""
    return [_task(number) for number in numbers]


def _task(number: int) -> LabeledTask:
    sound, marked = drawn_sound(number, LENGTH_S)
    result = [
        sound_segment("part", "audio", (start, end), LENGTH_S, [NAMES[label]]) for start, end, label in marked
    ]
    return {"audio": data_url(encoded(sound, "flac", "flac"), "audio/flac")}, result


def _variables(folder: Path) -> Mapping[str, str]:
    torch.manual_seed(0)
    return {"MODEL_AUDIO_TEXT_ENCODER": AudioTextEncoder.tiny(folder)}


COURSE = Course(
    label_config='<View><Labels name="part" toName="audio">'
    + "".join(f'<Label value="{name}"/>' for name in NAMES)
    + '</Labels><Audio name="audio" value="$audio"/></View>',
    make_tasks=lambda: labeled_tasks(range(TASKS)),
    variables=_variables,
    primary={"part": "f1"},
)
