"""The generator whose model computes on a server of its own: GENERATOR_URL.

The prompt is made here, with the tokenizer of MODEL_GENERATOR, as it is in training. Training runs load the model
themselves, and never ask the server.
"""

import logging
from collections.abc import Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from lorabel.contracts import BatchAdapters, Contract, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import Fetch, transformers_name
from lorabel.families.cache import FeatureCache
from lorabel.families.generation.completions import Completion, CompletionServer
from lorabel.families.generation.models import Reading
from lorabel.families.generation.prepared import PreparedInput
from lorabel.families.generation.prompts import CONTROL_CHARACTERS
from lorabel.families.generation.stepwise import Steps
from lorabel.families.generator import Generator
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, Written, WrittenText

log = logging.getLogger(__name__)

# Seconds that a step waits for the next text: a click may have to wait for it.
STEP_S = 0.02


@dataclass(frozen=True, kw_only=True)
class RemoteGenerator(Generator):
    """A generator without a model.

    Attributes:
        server: writes.
    """

    server: CompletionServer

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load the tokenizer; see `Family.load`."""
        name = transformers_name(source)
        try:
            reading = Reading.load(name, settings)
        except Exception as error:
            raise SettingsError(
                f"the tokenizer of MODEL_GENERATOR={source!r} cannot be loaded: {error}; set it to the model "
                "that the server of GENERATOR_URL has"
            ) from error
        return cls(
            source=source,
            module=nn.Module(),
            device=device,
            dtype=dtype,
            tokenizer=reading.tokenizer,
            reader=None,
            max_prompt_tokens=reading.max_prompt_tokens,
            max_new_tokens=reading.max_new_tokens,
            memory_bytes=0,
            server=CompletionServer(settings, settings.generator_model or name),
        )

    def prepare(self, question: Written, fetch: Fetch) -> PreparedInput:
        """Make the prompt; see `Family.prepare`."""
        is_any_text = isinstance(question, TextInput) and question.span_of is None
        if not is_any_text or question.modalities - {Modality.TEXT}:
            raise UnreadableError(
                "the server of GENERATOR_URL reads texts, not pictures, and writes any text: no spans, labels or "
                "numbers; unset GENERATOR_URL, the project's extra param `generator`, or `extractive` in the "
                "label config",
                is_permanent=False,
            )
        return super().prepare(question, fetch)

    def steps(self, bank: BatchAdapters, cache: FeatureCache) -> "RemoteSteps":
        """Return rows that the server writes; see `StepwiseFamily.steps`."""
        return RemoteSteps(self, bank)

    def lora_layers(self) -> list[str]:
        """Return none: the layers are on the server."""
        return []

    def written(self, prepared: PreparedInput, completion: Completion) -> WrittenText:
        """Return the output. Without probabilities of the tokens, the score is 0."""
        if not completion.probabilities and completion.text:
            log.warning("%s names no probabilities (logprobs) of tokens, so the score is 0", self.server.url)
        probabilities = completion.probabilities or (0.0,)
        return WrittenText(
            text=CONTROL_CHARACTERS.sub("", completion.text).strip(),
            probability=min(1.0, sum(probabilities) / len(probabilities)),
            is_complete=completion.is_ended,
            left_out_tokens=prepared.left_out_tokens,
        )


class RemoteSteps(Steps):
    """Rows that the server writes. A step waits for the next text, for STEP_S at most.

    The server batches rows as it likes, and knows how many it can compute, so there is always room.
    """

    def __init__(self, family: RemoteGenerator, bank: BatchAdapters) -> None:
        self._family, self._bank = family, bank
        self._rows: dict[Hashable, tuple[PreparedInput, Future[Completion]]] = {}

    @property
    def rows(self) -> Sequence[Hashable]:
        """The rows that are in; see `Steps.rows`."""
        return tuple(self._rows)

    def has_room(self, prepared_input: Any) -> bool:
        """True; see `Steps.has_room`."""
        return True

    def begin(self, row: Hashable, prepared_input: PreparedInput, adapter: str | None) -> None:
        """Send a row; see `Steps.begin`."""
        model = self._bank.effective_adapter(adapter, ())
        future = self._family.server.write(model, prepared_input.prompt, prepared_input.max_new_tokens)
        self._rows[row] = prepared_input, future

    def step(self) -> Sequence[Hashable]:
        """Wait for the next text; see `Steps.step`."""
        wait([future for _, future in self._rows.values()], timeout=STEP_S, return_when=FIRST_COMPLETED)
        return [row for row, (_, future) in self._rows.items() if future.done()]

    def finish(self, row: Hashable) -> Contract:
        """Return what was written; see `Steps.finish`. Raises UnreadableError if there is nothing."""
        prepared, future = self._rows.pop(row)
        return self._family.written(prepared, future.result())

    def leave(self, row: Hashable) -> None:
        """Let the server stop; see `Steps.leave`."""
        _, future = self._rows.pop(row)
        future.cancel()
