"""The head of relations on sentences by rule, with random vectors for the words."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from lorabel.demo.scenes import Scene
from lorabel.evaluation.relation_metrics import relations
from lorabel.families.encoders.heads import fit_relations
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.head_answers import related
from lorabel.labeling.words import find_words
from lorabel.problems.binding import bind
from lorabel.problems.relations import SpanRelations
from lorabel.problems.relations_in_pictures import PictureRelations
from tests import related_scenes
from tests.related_sentences import LABEL_CONFIG, sentence

(PROBLEM,) = (each for each in bind(LABEL_CONFIG).bindings if isinstance(each, SpanRelations))
(PICTURE_PROBLEM,) = (
    each for each in bind(related_scenes.LABEL_CONFIG).bindings if isinstance(each, PictureRelations)
)
DIM = 16


def example(number: int) -> Example:
    """An annotated sentence; the vectors of its words say nothing."""
    data = {"text": sentence(number).text}
    target = PROBLEM.target(sentence(number).result, data)
    question = PROBLEM.asked_for(PROBLEM.model_input(data), target)
    words = len(find_words(data["text"]))
    rows = np.random.default_rng(number).standard_normal((words, DIM)) / DIM**0.5
    return Example(question, rows.astype(np.float32), np.zeros(0, np.float32), target)


def scene_example(scene: Scene) -> Example:
    """A scene of boxes; the vectors of its boxes say nothing."""
    data = {"image": "https://example.org/1.png"}
    target = PICTURE_PROBLEM.target(related_scenes.result_of(scene), data)
    question = PICTURE_PROBLEM.asked_for(PICTURE_PROBLEM.model_input(data), target)
    rows = np.random.default_rng(len(target.regions)).standard_normal((len(target.regions), DIM)) / DIM**0.5
    return Example(question, rows.astype(np.float32), np.zeros(0, np.float32), target)


def f1(learned: list[Example], tested: list[Example]) -> float:
    head = fit_head(learned, "space")
    outputs = [related(head, each.question, each.features) for each in tested]  # type: ignore[arg-type]
    links = [[relation.link for relation in output.relations] for output in outputs]
    return float(relations([each.target.links for each in tested], links, ["owns", "knows"]).values["f1"])


@pytest.mark.slow
def test_relations_of_sentences_that_nobody_annotated_are_found() -> None:
    tested = [example(number) for number in range(500, 540)]
    few, more = ([example(number) for number in range(count)] for count in (4, 30))
    assert f1([], tested) == 0.0 < f1(few, tested) < f1(more, tested)
    assert f1(more, tested) > 0.9


def test_where_boxes_lie_is_learned() -> None:
    """Each is left of the next one to the right, at whatever height and of whatever label."""
    examples = [scene_example(scene) for scene in related_scenes.scenes(40)]
    assert f1(examples[:10], examples[10:]) > 0.95


@pytest.mark.slow
def test_the_head_is_a_function_of_the_set_of_examples() -> None:
    examples = [example(number) for number in range(8)]
    head, other = fit_head(examples, "space"), fit_head(examples[::-1], "space")
    assert head is not None and other is not None
    assert head.to_bytes() == other.to_bytes()


@pytest.mark.parametrize("numbers", [(), (0,), (0, 0)])
def test_nothing_is_learned_from_one_task(numbers: tuple[int, ...]) -> None:
    assert fit_head([example(number) for number in numbers], "space") is None


def test_nothing_is_learned_where_nobody_has_related_anything() -> None:
    without = [
        Example(each.question, each.features, each.logits, type(each.target)(each.target.regions, ()))
        for each in (example(0), example(1), example(2))
    ]
    assert fit_head(without, "space") is None


def test_a_label_that_nobody_has_used_is_never_found() -> None:
    examples = [example(number) for number in range(20)]
    only_owns = [
        Example(
            each.question,
            each.features,
            each.logits,
            type(each.target)(each.target.regions, tuple(link for link in each.target.links if link[2] == 0)),
        )
        for each in examples
    ]
    head = fit_head(only_owns, "space")
    assert head is not None and head.is_learned.tolist() == [True, False]
    outputs = [related(head, each.question, each.features) for each in examples]  # type: ignore[arg-type]
    assert {relation.label for output in outputs for relation in output.relations} == {0}


def test_a_pair_of_which_nothing_is_known_is_not_learned() -> None:
    examples = [example(number) for number in range(6)]
    target = examples[0].target
    pair = next(
        (first, second)
        for first in range(len(target.regions))
        for second in range(len(target.regions))
        if first != second and (first, second) not in {link[:2] for link in target.links}
    )
    unknown = Example(
        examples[0].question,
        examples[0].features,
        examples[0].logits,
        type(target)(target.regions, target.links, (pair,)),
    )
    task = fit_relations.RelatedTask(unknown.question, unknown.features, unknown.target, 0)  # type: ignore[arg-type]
    known = fit_relations.RelatedTask(unknown.question, unknown.features, target, 0)  # type: ignore[arg-type]
    rows, all_rows = (len(fit_relations._rows_of(each, 1000)[0]) for each in (task, known))
    assert rows == all_rows - 1


def test_the_head_is_the_maximum_of_the_posterior() -> None:
    """The gradient of the loss, by differences, is 0 at the weights that were found."""
    generator = np.random.default_rng(0)
    rows = np.column_stack([generator.standard_normal((60, 4)), np.ones(60)])
    truth = (rows @ generator.standard_normal((5, 1)) > 0.3).astype(float)
    precision = np.array([fit_relations.OF_WEIGHTS] * 4 + [fit_relations.OF_BIAS])

    def loss(weights: np.ndarray) -> float:
        logits = rows @ weights
        likelihood = np.logaddexp(0, logits).sum() - truth[:, 0] @ logits
        return float(likelihood + 0.5 * precision @ weights**2)

    found = fit_relations._fit(rows, truth)[:, 0]
    assert np.abs(approx_fprime(found, loss, 1e-6)).max() < 0.02
    assert loss(found) < loss(0.9 * found) and loss(found) < loss(1.1 * found)
