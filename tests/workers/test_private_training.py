"""Private training of adapters: what one task can change, the noise, and that seeds do not repeat it.

A run of the training worker with such a training is in test_private_runs.py.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lorabel.contracts import LabelTarget, Modality, RatingInput
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.prepared_input import PreparedContent, PreparedInput
from lorabel.settings import Settings
from tests.questions import about_picture
from workers import lora, private_training
from workers.examples import PreparedExample, TrainingExample

pytestmark = pytest.mark.slow

# The loss of an extreme task is so many times that of another.
EXTREME = 1e4
TEXTS = ("red", "blue")
QUESTION = about_picture("x", TEXTS)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> DualEncoder:
    torch.manual_seed(0)
    source = DualEncoder.tiny(tmp_path_factory.mktemp("base"))
    return DualEncoder.load(source, torch.device("cpu"), torch.float32, Settings())


def examples(family: DualEncoder, count: int = 12) -> list[PreparedExample]:
    pixels = [family.transform(Image.new("RGB", (32, 32), text)) for text in TEXTS]
    return [
        PreparedExample(
            TrainingExample((i,), i, QUESTION, LabelTarget((i % 2,)), i % 2, True),
            PreparedInput(QUESTION, (PreparedContent(Modality.IMAGE, pixels[i % 2]),)),
        )
        for i in range(count)
    ]


def recipe(noise: float, rate: float = 1.0, steps: int = 30) -> lora.Recipe:
    return lora.Recipe(4, 1e-2, steps, 8, 30, 1, "float32", noise_multiplier=noise, sample_rate=rate)


def trained(family: DualEncoder, used: lora.Recipe, count: int = 12) -> tuple[float, np.ndarray]:
    """The loss, and all weights of the adapter."""
    with lora.adapted(family, QUESTION, None, used) as model:
        loss = private_training.fine_tune(family, model, examples(family, count), used, lambda progress: None)
        weights = [weight.detach().flatten() for weight in model.parameters() if weight.requires_grad]
        return loss, torch.cat(weights).numpy()


def test_without_noise_it_learns_and_takes_all_steps_and_with_much_it_does_not(family: DualEncoder) -> None:
    steps: list[int] = []
    used = recipe(0.0)
    with lora.adapted(family, QUESTION, None, used) as model:
        loss = private_training.fine_tune(family, model, examples(family), used, lambda p: steps.append(p.step))
    assert loss < 0.3
    assert steps == list(range(1, 31))
    assert trained(family, recipe(1000.0))[0] > loss


def test_the_gradient_of_each_task_is_its_own(family: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever other tasks are in the sample: else clipping would not bound what one task changes."""
    monkeypatch.setattr(DualEncoder, "augment", lambda self, inputs, targets, generator: (inputs, targets))
    with lora.adapted(family, QUESTION, None, recipe(0.0)) as model:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        generator = torch.Generator().manual_seed(1)
        # LoRA's B is zero at the start, and so would be the gradients of A.
        for weight in weights:
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
        of_all = private_training.set_gradients(family, weights, examples(family, 20), generator)
        together = [weight.grad_sample.clone() for weight in weights]
        assert len(of_all) == 20
        for position in (0, 7, 19):
            private_training.set_gradients(family, weights, [examples(family, 20)[position]], generator)
            for weight, gradients in zip(weights, together, strict=True):
                assert torch.allclose(weight.grad_sample[0], gradients[position], atol=1e-6)
        private_training.set_gradients(family, weights, [], generator)
        assert all(weight.grad_sample.shape == (0, *weight.shape) for weight in weights)


def sums_of_gradients(
    family: DualEncoder, monkeypatch: pytest.MonkeyPatch, extreme: frozenset[str]
) -> list[torch.Tensor]:
    """What a training without noise adds to the weights with 12 tasks, and with 13, of which some are extreme.

    The optimizer is one whose step is the gradient itself, so the change of the weights is what the tasks have
    added. Each is of length 1 if it is the largest that is permitted.
    """
    plain_loss = DualEncoder.loss

    def loss(self: DualEncoder, inputs: Sequence[PreparedInput], targets: Sequence[Any]) -> torch.Tensor:
        factors = [EXTREME if each.contents[0].digest in extreme else 1.0 for each in inputs]
        return plain_loss(self, inputs, targets) * torch.tensor(factors)

    monkeypatch.setattr(DualEncoder, "loss", loss)
    monkeypatch.setattr(DualEncoder, "augment", lambda self, inputs, targets, generator: (inputs, targets))
    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, lr, weight_decay: torch.optim.SGD(weights, lr=lr))
    used = recipe(0.0, steps=1)
    sums = []
    for tasks in (numbered(family)[:12], numbered(family)):
        with lora.adapted(family, QUESTION, None, used) as model:
            weights = [weight for weight in model.parameters() if weight.requires_grad]
            before = torch.cat([weight.detach().flatten().clone() for weight in weights])
            private_training.fine_tune(family, model, tasks, used, lambda _: None)
            after = torch.cat([weight.detach().flatten() for weight in weights])
        # Opacus divides by the number of tasks, and the first step of the warm-up is a part of the rate.
        sums.append((before - after).double() * len(tasks) / (used.learning_rate * lora.rate(0, used, 0.0)))
    return sums


def numbered(family: DualEncoder) -> list[PreparedExample]:
    """13 examples whose pictures have their numbers as digests. The last is labelled wrongly."""
    tasks = []
    for number, example in enumerate(examples(family, 13)):
        (content,) = example.model_input.contents
        model_input = replace(example.model_input, contents=(replace(content, digest=str(number)),))
        tasks.append(replace(example, model_input=model_input))
    wrong = replace(tasks[-1].training_example, target=LabelTarget((1,)))
    return [*tasks[:-1], replace(tasks[-1], training_example=wrong)]


def test_a_task_adds_no_more_than_the_length_that_is_hidden_however_extreme_it_is(
    family: DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen from outside, in the weights of two trainings of which one has a task more."""
    without, with_task = sums_of_gradients(family, monkeypatch, extreme=frozenset({"12"}))
    added = torch.linalg.vector_norm(with_task - without)
    assert added == pytest.approx(private_training.MOST_LENGTH, rel=1e-3), "it was cut to this"


def test_a_task_with_a_short_gradient_adds_all_of_it(family: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also beside an extreme one: the others are not shortened with it."""
    monkeypatch.setattr(private_training, "MOST_LENGTH", 1e3)
    without, with_task = sums_of_gradients(family, monkeypatch, extreme=frozenset({"5"}))
    with lora.adapted(family, QUESTION, None, recipe(0.0)) as model:
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        loss = family.loss([numbered(family)[12].model_input], [LabelTarget((1,))])
        gradients = torch.autograd.grad(loss.sum(), weights)
    expected = torch.cat([gradient.flatten() for gradient in gradients])
    assert 0 < torch.linalg.vector_norm(expected) < 1e3
    assert torch.allclose((with_task - without).float(), expected, atol=1e-3)


def test_the_same_seed_gives_other_noise(family: DualEncoder) -> None:
    first, second = (trained(family, recipe(1.0, steps=1))[1] for _ in range(2))
    assert not np.allclose(first, second)


def test_a_sample_may_be_empty(family: DualEncoder) -> None:
    assert np.isfinite(trained(family, recipe(1.0, rate=0.01, steps=5))[1]).all()


def test_only_single_choices_about_one_content_are_supported(family: DualEncoder) -> None:
    private, used = Settings(dp_epsilon=1.0), recipe(1.0)
    rating = RatingInput(contents=QUESTION.contents)
    refused = [
        (used, rating),
        (used, QUESTION.model_copy(update={"is_multiple": True})),
        (lora.Recipe(4, 1e-2, 1, 8, 30, 1, "float32", is_for_head=True), QUESTION),
        (replace(used, kind="adalora"), QUESTION),
    ]
    assert private_training.refusal(private, family, used, QUESTION) is None
    for trained_by, question in refused:
        assert private_training.refusal(private, family, trained_by, question) is not None
        assert private_training.refusal(Settings(), family, trained_by, question) is None
