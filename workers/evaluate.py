"""Scores versions: outputs and metrics of the adapter that is active, and the splits of cross-validation."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lorabel.evaluation.metrics import Metrics
from lorabel.families.base import Family
from lorabel.families.cache import TEXTS, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.feature_contracts import Features
from lorabel.problems.base import Problem
from workers.active_adapter import ACTIVE, ActiveAdapter
from workers.examples import PreparedExample

CACHE_BYTES = 64 * 1024 * 1024
FOLDS = 3


def split_for_cross_validation(
    train: Sequence[PreparedExample],
) -> list[tuple[list[PreparedExample], list[PreparedExample]]]:
    """Up to FOLDS splits into (examples to train on, examples to test).

    Each new example is tested in exactly one split. Old examples are never tested, because live has learned them.
    """
    new = [example for example in train if example.training_example.is_new]
    splits = []
    for fold in range(min(FOLDS, len(new))):
        tested = new[fold::FOLDS]
        tested_identities = {id(example) for example in tested}
        splits.append(([example for example in train if id(example) not in tested_identities], tested))
    return splits


def predict(family: Family, examples: Sequence[PreparedExample], batch: int) -> list[Any]:
    """The family's outputs with the adapter that PEFT has active, one per example, `batch` examples at a time."""
    adapters, cache = ActiveAdapter(family.module), FeatureCache({TEXTS: CACHE_BYTES})
    outputs: list[Any] = []
    for start in range(0, len(examples), batch):
        inputs = [example.model_input for example in examples[start : start + batch]]
        outputs += family.predict(inputs, [ACTIVE] * len(inputs), adapters, cache)
    return outputs


def features(family: Family, examples: Sequence[PreparedExample], batch: int) -> list[Features]:
    """What a head is fitted on, one per example: of the base model, beside those of the adapter that is active."""
    for_features = [
        replace(example, model_input=family.for_features(example.model_input, example.target))
        for example in examples
    ]
    return predict(family, for_features, batch)


def predict_with_head(
    family: Family, train: Sequence[PreparedExample], tested: Sequence[PreparedExample], batch: int
) -> list[Any]:
    """The outputs with a head that is fitted on other examples; without one if they say nothing yet."""
    if not train or not tested:
        return predict(family, tested, batch)
    learned = features(family, train, batch)
    examples = [
        Example.of(example.training_example.question, example_features, example.target)
        for example, example_features in zip(train, learned, strict=True)
    ]
    head = fit_head(examples, learned[0].space)
    headed = [replace(example, model_input=family.with_head(example.model_input, head)) for example in tested]
    return predict(family, headed, batch)


def score(problem: Problem, family: Family, examples: Sequence[PreparedExample], batch: int) -> Metrics:
    """The metrics of the adapter that PEFT has active."""
    return compute_metrics(problem, examples, predict(family, examples, batch))


def compute_metrics(problem: Problem, examples: Sequence[PreparedExample], outputs: Sequence[Any]) -> Metrics:
    """The problem's metrics of `outputs`, one output per example."""
    return problem.metrics([example.target for example in examples], outputs)
