"""How much accuracy changed pictures and texts cost, and what it helps to fit the head on changed tasks too.

    python -m benchmarks.augmentation                    all sets, three orders
    python -m benchmarks.augmentation --only colours --seeds 1

For each set, the head is fitted on 160 annotated tasks:

- as they are: answers the test tasks as they are, and with each of the changes of `changed_tasks`;
- fitted on changed tasks too: each annotated task also with each change that the labels allow.

The labels allow a change if at least ALLOWED of the annotated tasks that the first head answers right stay right
with it. A change of colour is not allowed if the labels are colours.
"""

import argparse
import logging
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks import curve_features, machine
from benchmarks.changed_tasks import change, changes_of
from benchmarks.curve_courses import (
    COURSES,
    IMAGE_MODELS,
    SIDE_PX,
    TEST_TASKS,
    Course,
    LabeledTask,
    data_url,
)
from benchmarks.curve_features import Part
from lorabel.demo.pictures import COLOURS, random_pictures
from lorabel.families.encoders.heads.fit_choices import fit_choices
from lorabel.families.encoders.heads.linear_head import LinearHead, probabilities
from lorabel.settings import Settings
from workers.services import Services

ANNOTATED, SEEDS = 160, 3
ALLOWED = 0.9
AS_IT_IS = "as they are"


def colours() -> Course:
    """The demo's drawings by their colour, under names that tell the base model nothing."""
    names = {colour: f"bin {number}" for number, colour in enumerate(COLOURS, 1)}
    pictures = islice(random_pictures(35), ANNOTATED + TEST_TASKS)
    tasks = [({"image": data_url(picture.draw(SIDE_PX))}, names[picture.colour]) for picture in pictures]
    choices = "".join(f'<Choice value="{name}"/>' for name in names.values())
    config = (
        '<View><Image name="object" value="$image"/>'
        f'<Choices name="label" toName="object">{choices}</Choices></View>'
    )
    return Course("colours", config, IMAGE_MODELS, tasks[TEST_TASKS:], tasks[:TEST_TASKS])


SETS = {name: COURSES[name] for name in ("digits", "grades", "tickets", "packages")} | {"colours": colours}


def main() -> int:
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s %(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.augmentation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(SETS), help="data sets; all by default")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"orders of the tasks; {SEEDS}")
    options = parser.parse_args()
    print(machine.describe(Settings(precision="float32")).line)
    print("| set | test tasks | head | fitted on changed tasks too | right answers that stay right | allowed |")
    print("|---|---|---|---|---|---|")
    for name in options.only or SETS:
        for line in _measure(SETS[name](), options.seeds):
            print(line, flush=True)
    return 0


def _measure(course: Course, seeds: int) -> list[str]:
    """The lines of the table: medians over the orders."""
    names = (AS_IT_IS, *changes_of(course.test[0][0]))
    cells: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), models=dict(course.models), precision="float32")
        services = Services.open(settings)
        try:
            tests = _changed(services, course, course.test, names)
            for seed in range(seeds):
                annotated = _changed(services, course, course.shuffled(seed)[:ANNOTATED], names)
                for name, figures in compare(annotated, tests).items():
                    cells[name].append(figures)
        finally:
            services.close()
    lines = []
    for name, runs in cells.items():
        plain, augmented, staying = (statistics.median(each) for each in zip(*runs, strict=True))
        votes = sum(stay >= ALLOWED for _, _, stay in runs)
        allowed = "" if name == AS_IT_IS else f"{votes} of {len(runs)}"
        staying_cell = "" if name == AS_IT_IS else f"{staying:.2f}"
        row = (course.name, name, f"{plain:.3f}", f"{augmented:.3f}", staying_cell, allowed)
        lines.append(f"| {' | '.join(row)} |")
    return lines


def compare(annotated: Mapping[str, Part], tests: Mapping[str, Part]) -> dict[str, tuple[float, float, float]]:
    """Compare the two ways to fit the head.

    Args:
        annotated: change -> the annotated tasks with it, in the same order; AS_IT_IS: without.
        tests: the same of the test tasks.

    Returns:
        for each change: the accuracy on the test tasks, the same fitted on changed tasks too, and the share of
        right answers to annotated tasks that stay right.
    """
    head = _fit([annotated[AS_IT_IS]])
    was_right = _is_right(head, annotated[AS_IT_IS])
    staying = {name: float(_is_right(head, part)[was_right].mean()) for name, part in annotated.items()}
    allowed = [part for name, part in annotated.items() if staying[name] >= ALLOWED]
    augmented = _fit(allowed)
    return {
        name: (float(_is_right(head, part).mean()), float(_is_right(augmented, part).mean()), staying[name])
        for name, part in tests.items()
    }


def _fit(parts: Sequence[Part]) -> LinearHead | None:
    """Fit a head; a task is left out together with its changed copies."""
    labels = parts[0].zero_shot.shape[1]
    shares = np.concatenate([np.eye(labels, dtype=np.float32)[part.classes] for part in parts])
    groups = [task for part in parts for task in range(len(part.classes))]
    features, zero_shot = (
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.zero_shot for part in parts]),
    )
    return fit_choices(features, zero_shot, shares, groups)


def _is_right(head: LinearHead | None, part: Part) -> NDArray[np.bool_]:
    return np.asarray(probabilities(head, part.features, part.zero_shot).argmax(1) == part.classes)


def _changed(
    services: Services, course: Course, tasks: Sequence[LabeledTask], names: Sequence[str]
) -> dict[str, Part]:
    parts = {}
    for name in names:
        dice = random.Random(name)
        changed = [(data if name == AS_IT_IS else change(data, name, dice), label) for data, label in tasks]
        parts[name], _ = curve_features.compute(services, replace(course, tasks=changed, test=changed[:1]))
    return parts


if __name__ == "__main__":
    sys.exit(main())
