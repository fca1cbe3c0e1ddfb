"""Beam search in steps against `generate` of transformers with PEFT: each row gets the text that it gets alone."""

from collections.abc import Hashable
from functools import cache
from typing import Any

import pytest
import torch
from peft import PeftModel

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families import generator
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.generation.beams import BeamSearch
from lorabel.text_contracts import WrittenText
from model_server.adapters import AdapterBank
from tests.lorabel.families.test_generator import (  # noqa: F401
    ADAPTERS,
    TEXTS,
    adapter_folders,
    ask,
    load,
    name,
    prepare,
    source,
)

pytestmark = pytest.mark.slow

BEAMS, NEW_TOKENS = 3, 14


@pytest.fixture(scope="module")
def alone(source: str, adapter_folders: AdapterFolders) -> Any:  # noqa: F811
    """The text and its score by beam search of `generate` with PEFT, one row at a time."""

    @cache
    def written(text: str, project: int | None) -> tuple[str, float]:
        family = load(source, generator_max_new_tokens=NEW_TOKENS)
        model = family.module
        if project is not None:
            model = PeftModel.from_pretrained(model, adapter_folders.path(f"p{project}.v1/label"))
        prompt = prepare(family, ask(text)).prompt
        output = model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            num_beams=BEAMS,
            max_new_tokens=NEW_TOKENS,
            output_scores=True,
            return_dict_in_generate=True,
        )
        return family.tokenizer.text(output.sequences[0, len(prompt) :].tolist()), float(
            output.sequences_scores[0]
        )

    return written


def assert_equals_alone(output: Any, expected: tuple[str, float]) -> None:
    assert isinstance(output, WrittenText)
    assert output.text == expected[0]


def test_rows_of_five_projects_get_the_text_of_beam_search_alone_whenever_they_join(
    source: str,  # noqa: F811
    adapter_folders: AdapterFolders,  # noqa: F811
    alone: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight rows, one every second step; prompts are read in parts. Two have one text and different adapters."""
    monkeypatch.setattr(generator, "CPU_STEP_TOKENS", 60)
    family = load(source, generator_max_new_tokens=NEW_TOKENS, generator_beams=BEAMS)
    steps = family.steps(AdapterBank(family, adapter_folders, 10**9), FeatureCache({}))
    outputs: dict[Hashable, Any] = {}
    sizes = set()
    for number in range(200):
        if number % 2 == 0 and number // 2 < 8:
            row = number // 2
            steps.begin(row, prepare(family, ask(TEXTS[row])), name(ADAPTERS[row]))
        sizes.add(len(steps.rows))
        outputs |= {row: steps.finish(row) for row in steps.step()}
    assert len(outputs) == 8 and max(sizes) >= 4
    for row in range(8):
        assert_equals_alone(outputs[row], alone(TEXTS[row], ADAPTERS[row]))
    assert outputs[0].text != outputs[4].text, "the same text with another adapter"


@pytest.mark.parametrize("left_after", [0, 1, 4], ids=["before its first step", "in its prompt", "while writing"])
def test_a_row_that_leaves_does_not_change_the_beams_of_the_others(
    source: str,  # noqa: F811
    adapter_folders: AdapterFolders,  # noqa: F811
    alone: Any,
    left_after: int,
) -> None:
    family = load(source, generator_max_new_tokens=NEW_TOKENS, generator_beams=BEAMS)
    steps = family.steps(AdapterBank(family, adapter_folders, 10**9), FeatureCache({}))
    for row in (0, 1, 3):
        steps.begin(row, prepare(family, ask(TEXTS[row])), name(ADAPTERS[row]))
    for _ in range(left_after):
        assert not steps.step()
    steps.leave(1)
    outputs: dict[Hashable, Any] = {}
    while steps.rows:
        outputs |= {row: steps.finish(row) for row in steps.step()}
    assert set(outputs) == {0, 3}
    for row in outputs:
        assert_equals_alone(outputs[row], alone(TEXTS[int(str(row))], ADAPTERS[int(str(row))]))


def test_a_row_that_is_finished_early_has_its_best_line_so_far(source: str) -> None:  # noqa: F811
    family = load(source, generator_max_new_tokens=NEW_TOKENS, generator_beams=BEAMS)
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    steps.begin(0, prepare(family, ask(TEXTS[0])), None)
    for _ in range(4):
        steps.step()
    output = steps.finish(0)
    assert isinstance(output, WrittenText) and not output.is_complete and 0 < output.probability <= 1


def test_rows_with_beams_need_so_many_times_the_memory(source: str) -> None:  # noqa: F811
    family = load(source, generator_memory_mb=1, generator_max_new_tokens=100, generator_beams=4)
    steps, row = family.steps(NO_BATCH_ADAPTERS, FeatureCache({})), prepare(family, ask(TEXTS[5]))
    begun = 0
    while steps.has_room(row):
        steps.begin(begun, row, None)
        begun += 1
    assert begun == 2**20 // (4 * 256 * (len(row.prompt) + 100))


@pytest.mark.parametrize("end_weight", [-2.0, 0.0, 1.5, 3.0])
def test_the_search_finds_what_transformers_finds_whether_texts_end_early_or_never(
    source: str,  # noqa: F811
    end_weight: float,
) -> None:
    """The end is made less or more likely in every step; each text is searched with 1 to 5 beams."""
    for beams in (1, 2, 5):
        family = load(source, generator_max_new_tokens=NEW_TOKENS, generator_beams=beams)
        head = torch.nn.Linear(32, family.module.config.vocab_size)
        head.weight = family.module.lm_head.weight
        torch.nn.init.zeros_(head.bias)
        with torch.no_grad():
            head.bias[family.tokenizer.tokenizer.eos_token_id] = end_weight
        family.module.lm_head = head
        inputs = [prepare(family, ask(text)) for text in TEXTS[:4]]
        outputs = family.predict(inputs, [None] * 4, NO_BATCH_ADAPTERS, FeatureCache({}))
        for prepared, output in zip(inputs, outputs, strict=True):
            written = family.module.generate(
                input_ids=torch.tensor([prepared.prompt]),
                attention_mask=torch.ones(1, len(prepared.prompt), dtype=torch.long),
                do_sample=False,
                num_beams=beams,
                max_new_tokens=NEW_TOKENS,
            )
            expected = family.tokenizer.text(written[0, len(prepared.prompt) :].tolist())
            assert isinstance(output, WrittenText) and output.text == expected


def test_tokens_that_may_not_be_written_are_in_no_line() -> None:
    search = BeamSearch(2, 2, {0})
    log_probabilities = torch.tensor([[-torch.inf, -0.1, -torch.inf, -3.0]])
    assert search.advance(log_probabilities) == [0, 0]
    assert [line.tokens for line in search.lines] == [(1,), (3,)]
    only = torch.tensor([[-torch.inf, -torch.inf, 0.0, -torch.inf]] * 2)
    assert search.advance(only) == [] and search.is_done
    assert search.best.tokens == (1, 2) and not search.best.is_ended
