"""Which way to train a run goes on with, and that no way is judged where it was chosen."""

import base64
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorabel.contracts import Content, LabelScores, LabelsInput, LabelTarget, Modality
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput
from lorabel.feature_contracts import Features
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from tests.questions import about_picture
from workers import beside_head, lora
from workers.attempt import TrainingContext
from workers.examples import PreparedExample, TrainingExample
from workers.folds import Fold, choosing_folds, make_folds
from workers.services import Services

CONFIG = """<View><Text name="text" value="$text"/>
<Choices name="answer" toName="text"><Choice value="yes"/><Choice value="no"/></Choices></View>"""
TASKS = 60


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_fold_chooses_what_it_judges(folds: int) -> None:
    choosing = choosing_folds(folds)
    assert len(choosing) == folds
    assert all(chosen_on != fold and chosen_on < folds for fold, chosen_on in enumerate(choosing))
    assert len(set(choosing)) == 2, "every way is trained for two folds, not for all"


@pytest.mark.slow
def test_a_way_that_is_lucky_where_it_is_chosen_does_not_win_by_that(settings: Settings) -> None:
    """Each way is right about everything in one fold by chance, and knows nothing in the others."""
    judgement, _ = choose(settings, {("small", 0), ("large", 1)})
    assert not judgement.is_accepted, judgement.decision


@pytest.mark.slow
def test_a_way_that_is_right_everywhere_wins(settings: Settings) -> None:
    judgement, start = choose(settings, {("large", fold) for fold in range(3)})
    assert judgement.is_accepted, judgement.decision
    assert start.name == "large"
    assert judgement.candidate.values["tasks"] == TASKS, "every fold is judged"


@dataclass(frozen=True)
class Lucky(beside_head._Procedure):
    """Trains nothing: whether what a training learned holds is up to the test.

    Args:
        right: the starts, and the numbers of the folds, after whose training the features tell the truth.
        misleading: what the features of starts with this in their name say of tested tasks is wrong; None for no
            start.
        trained: the starts, and the numbers of the folds, in the order in which they were trained.
    """

    numbered: Sequence[Fold] = ()
    right: set[tuple[str, int]] = field(default_factory=set)
    misleading: str | None = None
    trained: list[tuple[str, int]] = field(default_factory=list)

    def _adapted_features(self, examples: Any, fold: Fold, start: Any) -> list[Features]:
        number = list(self.numbered).index(fold)
        self.trained.append((start.name, number))
        if self.misleading is not None and self.misleading in start.name:
            is_one = [(row % 2) ^ (row in fold.tested) for row in range(TASKS)]
            return [features([1 - one, one]) for one in is_one]
        if (start.name, number) not in self.right:
            return noise(10 + number)
        return [features([1 - number % 2, number % 2]) for number in range(TASKS)]


@pytest.mark.slow
def test_a_way_that_is_surely_worse_on_the_first_fold_is_not_tried_again(settings: Settings) -> None:
    """What `large` learns says the opposite of the truth about each task that it has not seen."""
    trained: list[tuple[str, int]] = []
    right = {("small", fold) for fold in range(3)}
    judgement, start = choose(settings, right, misleading="large", trained=trained)
    assert judgement.is_accepted and start.name == "small"
    assert trained == [("small", 0), ("large", 0), ("small", 1), ("small", 2)]


def test_a_run_ends_with_the_first_fold_if_all_ways_are_surely_worse(settings: Settings) -> None:
    trained: list[tuple[str, int]] = []
    judgement, _ = choose(settings, set(), misleading="", trained=trained)
    assert not judgement.is_accepted and judgement.is_surely_worse
    assert [fold for _, fold in trained] == [0, 0]


def test_where_the_head_is_right_about_all_that_is_left_out_what_is_tested_is_unlike_the_rest(
    settings: Settings,
) -> None:
    """Six templates, as of tickets, three for each class; those of a template differ less than templates do."""
    templates = np.random.default_rng(0).normal(size=(6, 32))
    noise_of_text = np.random.default_rng(1).normal(size=(TASKS, 32)) / 4
    rows = [features(templates[number % 6] + noise_of_text[number]) for number in range(TASKS)]
    classes = [number % 2 for number in range(TASKS)]
    with opened(settings, set(), []) as (procedure, prepared, zero_shot):
        easy = procedure.folds(beside_head._Examples(prepared, rows, rows, zero_shot, range(TASKS)), classes)
        hard = procedure.folds(
            beside_head._Examples(prepared, noise(1), noise(1), zero_shot, range(TASKS)), classes
        )
    for fold in easy:
        assert {index % 6 for index in fold.train}.isdisjoint(index % 6 for index in fold.tested)
        assert {classes[index] for index in fold.tested} == {0, 1}
    for fold in hard:
        assert {index % 6 for index in fold.train} == set(range(6)), "nothing is made harder"


def choose(settings: Settings, right: set[tuple[str, int]], **lucky: Any) -> Any:
    """`lucky`: more arguments of `Lucky`."""
    folds = make_folds(range(TASKS), [n % 2 for n in range(TASKS)], range(TASKS))
    recipe = lora.Recipe.from_settings(settings, "float32")
    starts = [beside_head._Start(name, None, recipe) for name in ("small", "large")]
    with opened(settings, right, folds) as (procedure, prepared, zero_shot):
        return replace(procedure, **lucky).choose(
            beside_head._Examples(prepared, noise(1), noise(1), zero_shot, range(TASKS)), folds, starts
        )


@contextmanager
def opened(settings: Settings, right: set[tuple[str, int]], folds: Sequence[Fold]) -> Iterator[Any]:
    services = Services.open(settings)
    try:
        problem = bind(CONFIG).bindings[0]
        prepared = [
            PreparedExample(TrainingExample((n,), n, question(n), LabelTarget((n % 2,)), n % 2, True), None)
            for n in range(TASKS)
        ]
        zero_shot = [LabelScores(probabilities=(0.5, 0.5)) for _ in prepared]
        context = TrainingContext(None, lambda reference: reference)
        yield Lucky(services, problem, None, context, 1.0, lambda _: None, folds, right), prepared, zero_shot  # type: ignore[arg-type]
    finally:
        services.close()


def question(number: int) -> LabelsInput:
    return LabelsInput(
        contents=(Content(modality=Modality.TEXT, text=f"text {number}"),), labels=(("yes",), ("no",))
    )


def noise(seed: int) -> list[Features]:
    return [features(row) for row in np.random.default_rng(seed).normal(size=(TASKS, 2))]


def features(values: Sequence[float]) -> Features:
    row = np.array(values) / np.linalg.norm(values)
    return Features(
        space="test", dim=len(row), float16=base64.b64encode(row.astype("<f2")).decode(), logits=(0.0, 0.0)
    )


@pytest.mark.parametrize("examples", [90, 480])
def test_a_run_counts_the_steps_of_all_its_trainings(settings: Settings, examples: int) -> None:
    """Two ways on two of three folds, the better one on the third, and then on all examples."""
    recipe = replace(lora.Recipe.from_settings(settings, "float32"), steps=40)
    folds = make_folds(range(examples), [n % 2 for n in range(examples)], range(examples))
    planned = [40] * 6 if examples == 90 else [80] * 5 + [120]
    reported: list[lora.Progress] = []
    report = beside_head._counted(reported.append, beside_head._all_steps(recipe, 2, folds, examples))
    for steps in planned:
        for step in range(1, steps + 1):
            report(lora.Progress(step, steps, 1.0, seconds_left=2.0 * (steps - step)))
    assert [progress.step for progress in reported] == list(range(1, sum(planned) + 1))
    assert {progress.steps for progress in reported} == {sum(planned)}
    assert reported[0].seconds_left == 2.0 * (sum(planned) - 1)


def test_more_examples_are_learned_from_in_more_steps(settings: Settings) -> None:
    recipe = replace(lora.Recipe.from_settings(settings, "float32"), steps=40)
    assert [beside_head.steps_for(examples, recipe) for examples in (80, 160, 320, 1000)] == [40, 40, 80, 250]


# The colours of the pictures, one class and the other in turn.
PICTURES = {"alike": ("red",), "unlike": ("red", "blue"), "mixed": ("red", "red", "blue", "blue")}


@pytest.mark.parametrize(
    ("pictures", "limit_s", "steps", "trainings"),
    [("alike", 600.0, 8, 2), ("alike", 1e-4, 8, 1), ("unlike", 600.0, 8, 1), ("mixed", 600.0, 1, 1)],
)
def test_a_training_that_leaves_all_features_alike_is_begun_once_more_with_another_seed(
    settings: Settings, tmp_path: Path, pictures: str, limit_s: float, steps: int, trainings: int
) -> None:
    """Pictures of two classes that look the same cannot be told apart, however often a training begins.

    Where contents of different classes are more alike than those of the same one, the loss is higher, and falls.
    """
    reported: list[int] = []
    used: list[Any] = []
    recipe = replace(lora.Recipe.from_settings(settings, "float32"), steps=steps, batch=12, is_for_head=True)
    family = tiny(tmp_path)
    with opened(settings, set(), []) as (procedure, _, _):
        procedure = replace(
            procedure, family=family, max_step_s=limit_s / steps, on_step=lambda p: reported.append(p.step)
        )
        loss = procedure.train(
            pictures_of(family, PICTURES[pictures]), beside_head._Start("anew", None, recipe), used.append
        )
    assert reported.count(1) == trainings
    assert len(used) == 1
    assert (abs(loss - math.log(11)) < 0.02) == (pictures == "alike"), loss


def tiny(folder: Path) -> DualEncoder:
    torch.manual_seed(0)
    source = DualEncoder.tiny(folder / "base")
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())


def pictures_of(family: DualEncoder, colours: Sequence[str]) -> list[PreparedExample]:
    question = about_picture("x", ("yes", "no"))
    pixels = [family.transform(Image.new("RGB", (32, 32), colour)) for colour in colours]
    return [
        PreparedExample(
            TrainingExample((n,), n, question, LabelTarget((n % 2,)), n % 2, True),
            PreparedInput(question, (PreparedContent(Modality.IMAGE, pixels[n % len(pixels)]),)),
        )
        for n in range(12)
    ]


def test_a_training_that_is_begun_once_more_makes_the_steps_of_the_run_more(settings: Settings) -> None:
    reported: list[lora.Progress] = []
    report = beside_head._counted(reported.append, steps=80)
    for _ in range(3):
        for step in range(1, 41):
            report(lora.Progress(step, 40, 1.0, seconds_left=0.0))
    assert [progress.step for progress in reported] == list(range(1, 121))
    assert all(progress.step <= progress.steps for progress in reported)
    assert reported[-1].steps == 120
