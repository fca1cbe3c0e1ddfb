"""Scores of labels in one pass, against a pass for each label by itself."""

from collections.abc import Hashable
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from lorabel.contracts import Content, LabelTarget, Modality, RatingTarget
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import UnreadableError
from lorabel.families import generator
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.generator import Generator
from lorabel.text_contracts import TextInput, WrittenLabelsInput, WrittenNumberInput
from model_server.adapters import AdapterBank
from tests.lorabel.families.test_generator import load, name, prepare
from tests.model_server.test_adapters import save_random_adapter

pytestmark = pytest.mark.slow

TEXTS = ("Pump 3 leaks.", "ok", "The belt squeals whenever it starts, and smoke comes out of the motor.")
# The first label is the beginning of the second.
LABELS = (("red",), ("red wine",), ("blue", "azure"), ("שלום",))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return Generator.tiny(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def family(source: str) -> Generator:
    return load(source)


def contents(text: str) -> tuple[Content, ...]:
    return (Content(modality=Modality.TEXT, text=text),)


def labels(text: str, **fields: Any) -> WrittenLabelsInput:
    return WrittenLabelsInput(contents=contents(text), instruction="Which?", labels=LABELS, **fields)


def log_probability(module: Any, prompt: tuple[int, ...], answer: list[int]) -> float:
    """By a pass of its own."""
    tokens = torch.tensor([[*prompt, *answer]])
    with torch.inference_mode():
        found = module(input_ids=tokens).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return float(found[range(len(answer)), answer].sum())


def expected(family: Generator, module: Any, question: WrittenLabelsInput) -> torch.Tensor:
    """The log probability of each text of each label, of several the logarithm of their sum."""
    prompt, end = prepare(family, question).prompt, family.tokenizer.tokenizer.eos_token_id
    scores = [
        [log_probability(module, prompt, [*family.tokenizer.answer(text), end]) for text in texts]
        for texts in question.labels
    ]
    return torch.stack([torch.tensor(each).logsumexp(0) for each in scores])


@pytest.mark.parametrize("step_tokens", [512, 24], ids=["whole prompts", "prompts in parts"])
def test_probabilities_are_those_of_each_label_alone_with_the_adapter_of_each_row(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_tokens: int
) -> None:
    monkeypatch.setattr(generator, "CPU_STEP_TOKENS", step_tokens)
    torch.manual_seed(1)
    folders, family = AdapterFolders(tmp_path / "adapters"), load(source)
    for project in (1, 2):
        save_random_adapter(load(source), folders, f"p{project}.v1", 2 + project)
    rows = list(product(TEXTS, (1, None, 2)))
    inputs = [prepare(family, labels(text)) for text, _ in rows]
    bank = AdapterBank(family, folders, 10**9)
    outputs = family.predict(inputs, [name(project) for _, project in rows], bank, FeatureCache({}))
    for (text, project), output in zip(rows, outputs, strict=True):
        alone = load(source)
        module = alone.module
        if project is not None:
            module = PeftModel.from_pretrained(module, folders.path(f"p{project}.v1/label"))
        probabilities = expected(alone, module, labels(text)).softmax(0)
        assert output.model_dump()["probabilities"] == pytest.approx(probabilities.tolist(), abs=1e-4)
    assert len({output.model_dump_json() for output in outputs}) == len(rows)


def test_of_several_labels_each_is_yes_or_no(family: Generator) -> None:
    question = labels(TEXTS[0], is_multiple=True)
    (output,) = family.predict([prepare(family, question)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    prompt, end = prepare(family, question).prompt, family.tokenizer.tokenizer.eos_token_id
    for texts, probability in zip(LABELS, output.model_dump()["probabilities"], strict=True):
        yes, no = (
            log_probability(family.module, prompt, [*family.tokenizer.answer(f"{texts[0]}: {answer}"), end])
            for answer in ("yes", "no")
        )
        assert probability == pytest.approx(float(torch.tensor(yes - no).sigmoid()), abs=1e-4)


def test_the_labels_below_a_label_of_a_taxonomy_sum_to_one(family: Generator) -> None:
    question = WrittenLabelsInput(
        contents=contents("x"),
        instruction="Which?",
        labels=(("machine",), ("bearing",), ("belt",), ("software",)),
        parents=(-1, 0, 0, -1),
    )
    (output,) = family.predict([prepare(family, question)], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    machine, bearing, belt, software = output.model_dump()["probabilities"]
    assert machine + software == pytest.approx(1) and bearing + belt == pytest.approx(1)


def test_the_number_is_the_median_and_its_error_is_expected_by_the_probabilities(family: Generator) -> None:
    question = WrittenNumberInput(contents=contents("x"), instruction="How many?", minimum=1, maximum=5)
    prepared = prepare(family, question)
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    end = family.tokenizer.tokenizer.eos_token_id
    scores = [
        log_probability(family.module, prepared.prompt, [*family.tokenizer.answer(str(value)), end])
        for value in range(1, 6)
    ]
    probabilities = torch.tensor(scores).softmax(0)
    median = next(value for value in range(1, 6) if probabilities[:value].sum() >= 0.5)
    error = sum(p * abs(value - median) for value, p in enumerate(probabilities.tolist(), 1))
    assert output.model_dump() == {"value": median, "expected_error": pytest.approx(error, abs=1e-4)}


def test_rows_that_leave_or_fail_change_no_other_row_and_texts_go_on_beside_them(family: Generator) -> None:
    alone = family.predict(
        [prepare(family, labels(text)) for text in TEXTS], [None] * 3, NO_BATCH_ADAPTERS, FeatureCache({})
    )
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    written = prepare(family, TextInput(contents=contents("x"), instruction="Sum up."))
    steps.begin("text", written, None)
    for row, text in enumerate(TEXTS):
        steps.begin(row, prepare(family, labels(text)), None)
    steps.begin("gone", prepare(family, labels("gone")), None)
    steps.step()
    steps.leave("gone")

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    hook = family.module.get_decoder().layers[-1].mlp.register_forward_pre_hook(fail)
    for _ in range(3):
        with pytest.raises(torch.OutOfMemoryError):
            steps.step()
    hook.remove()
    outputs: dict[Hashable, Any] = {}
    while steps.rows:
        outputs |= {row: steps.finish(row) for row in steps.step()}
    (text,) = family.predict([written], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert outputs.pop("text") == text
    for row, output in enumerate(alone):
        assert outputs[row].probabilities == pytest.approx(output.model_dump()["probabilities"], abs=1e-5)


def test_rows_that_are_scored_wait_for_room_beside_those_that_are_written_and_the_other_way_round(
    source: str,
) -> None:
    """Bytes by hand: 4 bytes for each number of keys, values and logits."""
    family = load(source, generator_memory_mb=1, generator_max_new_tokens=64)
    config = family.module.config.get_text_config()
    heads, dim = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    token_bytes = 2 * config.num_hidden_layers * heads * dim * 4
    many = tuple((f"label number {number}",) for number in range(90))
    scored = prepare(family, WrittenLabelsInput(contents=contents("x"), instruction="Which?", labels=many))
    written = prepare(family, TextInput(contents=contents("x" * 300), instruction="Sum up."))
    assert scored.branches is not None
    nodes = len(scored.branches.tokens)
    scored_bytes = (len(scored.prompt) + nodes) * token_bytes + (1 + nodes) * config.vocab_size * 4
    written_bytes = (len(written.prompt) + 64) * token_bytes

    names = count()

    def begin(steps: Any, prepared: Any, most: int = 100) -> int:
        before = len(steps.rows)
        while len(steps.rows) - before < most and steps.has_room(prepared):
            steps.begin(next(names), prepared, None)
        return len(steps.rows) - before

    assert 1 < 2**20 // scored_bytes < generator.SCORED_ROWS and 2**20 // written_bytes > 3
    assert begin(family.steps(NO_BATCH_ADAPTERS, FeatureCache({})), scored) == 2**20 // scored_bytes
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    assert begin(steps, scored, most=1) == 1
    assert begin(steps, written) == (2**20 - scored_bytes) // written_bytes
    assert not steps.has_room(scored)
    steps.leave(steps.rows[0])
    assert begin(steps, written) > 0, "a row that is gone takes no room"
    plenty = replace(family, memory_bytes=generator.SCORED_ROWS * scored_bytes)
    assert begin(plenty.steps(NO_BATCH_ADAPTERS, FeatureCache({})), scored) == 100, "others wait without keys"


@pytest.mark.parametrize(
    ("question", "targets"),
    [
        (labels("{}"), [LabelTarget((0,)), LabelTarget((2,))]),
        (labels("{}", is_multiple=True), [LabelTarget((0, 3)), LabelTarget(())]),
        (
            WrittenNumberInput(contents=contents("{}"), instruction="How many?", minimum=1, maximum=5),
            [RatingTarget(1.0), RatingTarget(4.0)],
        ),
    ],
    ids=["one", "several", "numbers"],
)
def test_lora_learns_what_people_answer(source: str, question: Any, targets: list[Any]) -> None:
    family = load(source)
    torch.manual_seed(0)
    get_peft_model(family.module, LoraConfig(r=4, lora_alpha=8, target_modules=family.lora_layers()))
    inputs = [
        prepare(family, question.model_copy(update={"contents": contents(text)})) for text in ("leak", "dark")
    ]
    trained = [weight for weight in family.module.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    losses = []
    for _ in range(40):
        loss = family.loss(inputs, targets).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]


def test_labels_with_too_many_tokens_are_refused_with_a_reason(family: Generator) -> None:
    question = WrittenLabelsInput(
        contents=contents("x"), instruction="Which?", labels=tuple((f"{n} " * 40,) for n in range(40))
    )
    with pytest.raises(UnreadableError, match=r"the labels have \d+ tokens, expected at most 1024"):
        prepare(family, question)
