"""What boxes lose in other precisions than float32: the demo's detector on drawn scenes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import box_training_curves as boxes
from benchmarks.box_curves import Annotated, answers, head_of, with_features
from benchmarks.quantised_choices import HEAD, ZERO_SHOT, Served
from benchmarks.quantised_loss import FLOAT32, Loss, interval
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.demo import DETECTOR_FOLDER
from lorabel.families.detector import Detector
from lorabel.settings import Settings
from workers import lora
from workers.beside_head import recipe_for
from workers.examples import PreparedExample
from workers.services import Services

NAME = "boxes"
ANNOTATED, GROUPS = 20, 20
# Words that the detector knows, and names that say nothing.
WORDS, TRAINED = f"{ZERO_SHOT}, words", "adapter"


def measure(name: str, seeds: int, precisions: Sequence[str], folder: Path) -> Iterator[Loss]:
    """Yield the loss of each way to answer in each precision, of which the first is float32.

    Each group of scenes has an mAP@50 of its own.
    """
    models = {"detector": f"local-dir:{DETECTOR_FOLDER}"}
    services = Services.open(Settings(data_dir=folder, models=models, device="cpu", precision=FLOAT32))
    try:
        served = {precision: Served.load(Detector, services.settings, precision) for precision in precisions}
        figures: dict[tuple[str, str], list[list[float]]] = {}
        for seed in range(seeds):
            of_seed: dict[tuple[str, str], list[float]] = {}
            for way, precision, figure in _figures(services, served, seed, folder / f"{seed}"):
                of_seed.setdefault((way, precision), []).append(figure)
            for key, of_groups in of_seed.items():
                figures.setdefault(key, []).append(of_groups)
        for (way, precision), of_seeds in figures.items():
            of_groups = [sum(each) / seeds for each in zip(*of_seeds, strict=True)]
            before = [sum(each) / seeds for each in zip(*figures[way, FLOAT32], strict=True)]
            lost = [100 * (one - other) for one, other in zip(before, of_groups, strict=True)]
            right = sum(of_groups) / GROUPS
            yield Loss(name, way, precision, right, *interval(lost), None, GROUPS * boxes.TESTED)
    finally:
        services.close()


def _figures(
    services: Services, served: dict[str, Served], seed: int, folder: Path
) -> Iterator[tuple[str, str, float]]:
    """Way, precision and mAP@50 of each group of scenes."""
    subject = boxes.make_subject(services, boxes.UNSAID, seed, folder)
    adapter = _train(subject, seed)
    annotated = subject.all_examples(ANNOTATED)
    heads = {name: head_of(_features(each, annotated)) for name, each in served.items()}
    for group in range(GROUPS):
        test_seed = boxes.TEST_SEED + group
        said, unsaid = (
            boxes.make_subject(services, labels, seed, folder, test_seed) for labels in (boxes.SAID, boxes.UNSAID)
        )
        for precision, each in served.items():
            yield WORDS, precision, said.score(each.answers(said.test, None))
            yield TRAINED, precision, unsaid.score(each.answers(unsaid.test, adapter))
            family = each.family
            assert isinstance(family, Detector)
            found = answers(family, heads[precision], _features(each, unsaid.test))
            yield HEAD, precision, unsaid.score(found)


def _features(served: Served, prepared: Sequence[PreparedExample]) -> list[Annotated]:
    family = served.family
    assert isinstance(family, Detector)
    return with_features(family, [each.model_input for each in prepared], [each.target for each in prepared])


def _train(subject: boxes.Subject, seed: int) -> str:
    """Train an adapter in float32, without the gate of a run. Returns its name."""
    settings, family = subject.services.settings, subject.family
    prepared = subject.all_examples(ANNOTATED)
    question = prepared[0].training_example.question
    recipe = recipe_for(family, question, lora.Recipe.from_settings(settings, FLOAT32), settings)
    with lora.adapted(family, question, None, replace(recipe, seed=seed)) as model:
        known = lora.precompute(family, model, prepared, None)
        lora.fine_tune(family, model, known, replace(recipe, seed=seed), lambda _: None)
        version = f"p1.v{seed + 1}"
        AdapterFolders(settings.adapters_dir).write(version, lambda target: lora.save(model, target / "box"))
    return f"{version}/box"
