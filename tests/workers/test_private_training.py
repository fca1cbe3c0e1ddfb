"""Private training of adapters: what one task can change, the noise, and that seeds do not repeat it."""

from dataclasses import replace

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
