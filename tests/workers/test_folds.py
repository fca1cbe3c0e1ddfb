from collections import Counter

import numpy as np
import pytest

from workers.folds import FOLDS, clusters, make_folds, near_duplicates


def test_each_tested_example_is_tested_once_and_never_learned_from_in_its_fold() -> None:
    folds = make_folds(range(20), [index % 2 for index in range(20)], range(5, 20))
    assert sorted(index for fold in folds for index in fold.tested) == list(range(5, 20))
    for fold in folds:
        assert sorted([*fold.train, *fold.tested]) == list(range(20)), "others are learned from in every fold"


def test_each_fold_tests_about_equally_many_of_each_class() -> None:
    classes = ["common"] * 60 + ["rare"] * 6
    folds = make_folds(range(66), classes, range(66))
    counts = [Counter(classes[index] for index in fold.tested) for fold in folds]
    assert counts == [{"common": 20, "rare": 2}] * FOLDS


def test_examples_that_are_alike_are_tested_together_and_nothing_like_them_is_learned() -> None:
    """Two classes, each with texts of three templates, as people write tickets."""
    generator = np.random.default_rng(0)
    templates = generator.normal(size=(6, 8))
    features = np.repeat(templates, 10, axis=0) + 0.01 * generator.normal(size=(60, 8))
    classes = [index // 30 for index in range(60)]
    groups = clusters(features.astype(np.float32), classes)
    assert len(set(groups)) == 6
    assert all(len(set(groups[template : template + 10])) == 1 for template in range(0, 60, 10))
    # The first of each template was learned by the live adapter, and is not tested.
    folds = make_folds(groups, classes, [index for index in range(60) if index % 10])
    for fold in folds:
        assert {groups[index] for index in fold.train}.isdisjoint(groups[index] for index in fold.tested)
        assert Counter(classes[index] for index in fold.tested) == {0: 9, 1: 9}, "a template of each class"


def test_a_procedure_that_knows_templates_by_heart_is_found_out() -> None:
    """The nearest example answers: always rightly about a template that it has seen, else by chance."""
    generator = np.random.default_rng(1)
    templates = generator.normal(size=(12, 16))
    features = (np.repeat(templates, 10, axis=0) + 0.01 * generator.normal(size=(120, 16))).astype(np.float32)
    classes = [index // 40 for index in range(120)]
    distances = ((features[:, None] - features[None]) ** 2).sum(-1)
    right = [
        classes[min(fold.train, key=lambda other: distances[index, other])] == classes[index]
        for fold in make_folds(clusters(features, classes), classes, range(120))
        for index in fold.tested
    ]
    assert np.mean(right) < 0.6, "of new templates, about a third is right by chance"


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_classes_that_are_all_alike_are_still_divided(spread: float) -> None:
    """A chain in which each is near the next, or a base model that sees no difference at all."""
    features = 1 + spread * np.linspace(0, 1, 200)[:, None].repeat(4, 1)
    classes = [index % 2 for index in range(200)]
    folds = make_folds(clusters(features.astype(np.float32), classes), classes, range(200))
    assert len(folds) == FOLDS
    assert all({classes[index] for index in fold.train} == {0, 1} for fold in folds)


def test_a_class_of_one_or_two_examples_is_divided_as_far_as_it_goes() -> None:
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    classes = ["often"] * 6 + ["twice"] * 2 + ["once"]
    groups = clusters(features, classes)
    assert [len(set(groups[:6])), len(set(groups[6:8])), len(set(groups))] == [3, 2, 6]


def test_near_duplicates_are_tested_together_and_nothing_like_them_is_learned() -> None:
    generator = np.random.default_rng(0)
    templates = generator.normal(size=(10, 8))
    features = np.repeat(templates, 6, axis=0) + 0.01 * generator.normal(size=(60, 8))
    groups = near_duplicates(features.astype(np.float32), [0] * 60)
    assert groups == [6 * (index // 6) for index in range(60)]
    # The first of each template was learned by the live adapter, and is not tested.
    tested = [index for index in range(60) if index % 6]
    for fold in make_folds(groups, [0] * 60, tested):
        assert {groups[index] for index in fold.train}.isdisjoint(groups[index] for index in fold.tested)


def test_most_of_a_class_is_not_tested_where_nothing_like_it_is_learned() -> None:
    """Of handwritten digits, most ones are nearly alike; each is near another one."""
    generator = np.random.default_rng(0)
    features, classes = generator.normal(size=(300, 16)), [index // 30 for index in range(300)]
    features[:20] = features[0] + 0.2 * generator.normal(size=(20, 16))
    folds = make_folds(near_duplicates(features.astype(np.float32), classes), classes, range(300))
    assert [sum(classes[index] == 0 for index in fold.tested) for fold in folds] == [10, 10, 10]


@pytest.mark.parametrize("spread", [1.0, 1e-6])
def test_features_that_are_all_alike_are_still_divided(spread: float) -> None:
    """A chain in which each is near the next, or a base model that sees no difference at all."""
    features = 1 + spread * np.linspace(0, 1, 200)[:, None].repeat(4, 1)
    groups = near_duplicates(features.astype(np.float32), [0] * 200)
    assert len(make_folds(groups, [0] * 200, range(200))) == FOLDS


def test_one_group_makes_one_fold() -> None:
    assert len(make_folds([0, 0, 0], ["a", "b", "a"], [0, 1, 2])) == 1
