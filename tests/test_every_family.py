"""What every family must do; a new file in `lorabel/families/` is covered by itself."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from lorabel import problems
from lorabel.contracts import Contract, MediaRef
from lorabel.discovery import discover
from lorabel.families import Family, family_types
from lorabel.memo import Memo
from lorabel.problems import Problem, bind
from lorabel.registry import Registry
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter

COLOURS = ("red", "blue", "red", "blue")


@pytest.fixture(params=family_types(), ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def source(kind: type[Family], tmp_path: Path) -> str:
    torch.manual_seed(0)
    return kind.tiny(tmp_path / "base")


def load(kind: type[Family], source: str) -> Family:
    return kind.load(source, torch.device("cpu"), torch.float32, Settings())


def problem_of(kind: type[Family]) -> Problem:
    found = discover(problems, Problem)  # type: ignore[type-abstract]
    sample = next(p for p in found if (p.input_type, p.output_type) == (kind.input_type, kind.output_type)).SAMPLE
    return bind(sample.label_config).bindings[0]


def read(media: MediaRef) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), media.url).save(file, "PNG")
    return file.getvalue()


def four_examples(family: Family) -> list[Any]:
    question: Contract = problem_of(type(family)).model_input({"image": "red"})
    return [family.prepare(question.model_copy(update={"image": MediaRef(url=c)}), read) for c in COLOURS]


def four_targets(kind: type[Family]) -> list[Any]:
    problem = problem_of(kind)
    region = problem.SAMPLE.result[0]
    return [problem.target([region | {"value": {"choices": [colour]}}]) for colour in COLOURS]


def probabilities(outputs: Any) -> torch.Tensor:
    return torch.tensor([output.probabilities for output in outputs])


def test_a_batch_with_mixed_adapters_equals_its_rows_one_by_one(
    kind: type[Family], source: str, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "adapters")
    one, two = (save_random_adapter(load(kind, source), registry, version, 4) for version in ("p1.v1", "p2.v1"))
    family = load(kind, source)
    bank = AdapterBank(family, registry, 10**9)
    adapters = [one, None, two, one]
    examples = four_examples(family)
    together = family.predict(examples, adapters, bank, Memo({}))
    alone = [family.predict([e], [a], bank, Memo({}))[0] for e, a in zip(examples, adapters, strict=True)]
    torch.testing.assert_close(probabilities(together), probabilities(alone), rtol=1e-3, atol=1e-4)
    base = family.predict(examples, [None] * 4, bank, Memo({}))
    assert not torch.allclose(probabilities(together), probabilities(base), atol=1e-3)


def test_the_loss_falls_on_four_examples(kind: type[Family], source: str) -> None:
    family = load(kind, source)
    examples, targets = four_examples(family), four_targets(kind)
    model = get_peft_model(family.module, LoraConfig(r=4, target_modules=family.lora_layers()))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    losses = []
    for _ in range(30):
        loss = family.loss(examples, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_augmented_examples_keep_their_shape_and_are_the_same_for_the_same_seed(
    kind: type[Family], source: str
) -> None:
    family = load(kind, source)
    examples = four_examples(family)
    once, again = (family.augment(examples, torch.Generator().manual_seed(3)) for _ in range(2))
    for before, first, second in zip(examples, once, again, strict=True):
        assert first.pixels.shape == before.pixels.shape
        assert torch.equal(first.pixels, second.pixels)


def test_precomputed_examples_give_the_same_answers(kind: type[Family], source: str, tmp_path: Path) -> None:
    family = load(kind, source)
    bank = AdapterBank(family, Registry(tmp_path), 10**9)
    examples = four_examples(family)
    made = family.precompute(examples, family.trained_layers(), torch.Generator())
    expected, found = (family.predict(inputs, [None] * 4, bank, Memo({})) for inputs in (examples, made))
    torch.testing.assert_close(probabilities(found), probabilities(expected), rtol=1e-4, atol=1e-5)
