"""transformers language models that write a text about a text, as the instruction says; or labels, spans, numbers.

The model is one that follows instructions, with a chat template. It writes greedily, step by step. LoRA goes on
all linear layers but the last one, which turns states into tokens; the loss is that of the answer's tokens.

Memory: the keys and values of a row take its prompt and its most new tokens times the bytes of one token. Rows
wait where they do not fit into GENERATOR_MEMORY_MB together.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from lorabel.contracts import BatchAdapters, Contract, Input, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import LOAD_DTYPE, Fetch, transformers_name
from lorabel.families.generation import label_scoring
from lorabel.families.generation.answer_forms import (
    Answered,
    ScoredForm,
    TextForm,
    WrittenForm,
    branches_of,
    form_of,
)
from lorabel.families.generation.constraints import Constraint
from lorabel.families.generation.decoding import Decoder, Draft
from lorabel.families.generation.label_scoring import Branches, Scoring
from lorabel.families.generation.prompts import CHARACTERS_PER_TOKEN, ChatTokenizer
from lorabel.families.generation.stepwise import Steps, StepwiseFamily
from lorabel.families.generation.vocabulary import Vocabulary
from lorabel.families.generation.writing import Writing
from lorabel.families.lora_layers import linear_layers
from lorabel.media.text import read_text_file
from lorabel.settings import Settings
from lorabel.text_contracts import (
    TextInput,
    Written,
    WrittenLabelsInput,
    WrittenNumberInput,
    WrittenSpansInput,
)

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
# Kinds of layers whose states are keys and values, which the rows of a batch can share.
SERVED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
# Tokens of prompts that one step computes, at most: a click may have to wait for it.
STEP_TOKENS, CPU_STEP_TOKENS = 512, 128
# Rows whose labels are scored together.
SCORED_ROWS = 8
NOT_A_TARGET = -100
TINY_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class PreparedInput:
    """A question as tokens.

    Args:
        prompt: all tokens up to where the model writes.
        left_out_tokens: see `WrittenText`.
        max_new_tokens: of the answer.
        form: what an answer may be, and how it is read; None for any text.
        branches: the texts of a form whose texts are scored.
    """

    question: Written
    prompt: tuple[int, ...]
    left_out_tokens: int
    max_new_tokens: int
    form: WrittenForm | ScoredForm | None = None
    branches: Branches | None = None

    @property
    def constraint(self) -> Constraint | None:
        """What may be written; None for any text."""
        return None if self.form is None or isinstance(self.form, ScoredForm) else self.form.constraint


@dataclass(frozen=True)
class Generator(StepwiseFamily):
    """Causal language models of transformers.

    Attributes:
        module: the model with its last layer.
        tokenizer: makes the prompts.
        max_prompt_tokens: of a prompt.
        max_new_tokens: of an answer.
        memory_bytes: for keys and values.
    """

    name: ClassVar[str] = "generator"
    inputs: ClassVar[tuple[type[Input], ...]] = (
        TextInput,
        WrittenLabelsInput,
        WrittenSpansInput,
        WrittenNumberInput,
    )
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    default_source: ClassVar[str] = "hf-hub:HuggingFaceTB/SmolLM2-360M-Instruct"
    learning_rate_factor: ClassVar[float] = 0.2
    most_train_batch: ClassVar[int | None] = 4
    most_tested: ClassVar[int | None] = 50

    source: str
    module: Any
    device: torch.device
    dtype: torch.dtype
    tokenizer: ChatTokenizer
    max_prompt_tokens: int
    max_new_tokens: int
    memory_bytes: int

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            tokenizer = ChatTokenizer.of(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
            module = AutoModelForCausalLM.from_pretrained(
                name, dtype=LOAD_DTYPE, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
            )
            _check_layers(module.config)
        except Exception as error:
            raise SettingsError(
                f"MODEL_GENERATOR={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a causal language model of transformers with safetensors, a fast tokenizer "
                "and a chat template"
            ) from error
        module.requires_grad_(False).eval().to(device=device, dtype=dtype)
        positions = getattr(module.config, "max_position_embeddings", None) or 1 << 30
        max_new_tokens = min(settings.generator_max_new_tokens, positions // 2)
        max_prompt_tokens = min(settings.generator_max_prompt_tokens, positions - max_new_tokens)
        memory_bytes = settings.generator_memory_mb * MEGABYTE
        return cls(source, module, device, dtype, tokenizer, max_prompt_tokens, max_new_tokens, memory_bytes)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny Llama whose tokens are bytes; see `Family.tiny`."""
        special_tokens = ["<|pad|>", "<|start|>", "<|end|>"]
        vocabulary = {
            token: index
            for index, token in enumerate([*special_tokens, *sorted(pre_tokenizers.ByteLevel.alphabet())])
        }
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<|pad|>",
            bos_token="<|start|>",
            eos_token="<|end|>",
            chat_template=TINY_TEMPLATE,
        ).save_pretrained(folder)
        config = LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            # With the usual 0.02 the states of so small a model could not tell its tokens apart.
            initializer_range=0.2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        return f"local-dir:{folder}"

    def prepare(self, question: Written, fetch: Fetch) -> PreparedInput:
        """Read the texts and make the prompt; see `Family.prepare`."""
        texts = [
            content.text or ""
            if content.media is None or content.text_format is None
            else read_text_file(fetch(content.media), content.text_format)
            for content in question.contents
        ]
        if not any(text.strip() for text in texts):
            raise UnreadableError("the task has no text to write about", is_permanent=True)
        try:
            asked = _with_instruction(question)
            prompt = self.tokenizer.prompt(asked, texts, self.max_prompt_tokens)
        except ValueError as error:
            raise UnreadableError(
                f"{error}; a prompt may have {self.max_prompt_tokens} (GENERATOR_MAX_PROMPT_TOKENS, or what the "
                "model reads)",
                is_permanent=False,
            ) from error
        if prompt.left_out:
            log.info(
                "a text is too long: about %d of its tokens are not read, since a prompt may have %d "
                "(GENERATOR_MAX_PROMPT_TOKENS, or what the model reads)",
                prompt.left_out,
                self.max_prompt_tokens,
            )
        read = [text[: self.max_prompt_tokens * CHARACTERS_PER_TOKEN] for text in texts]
        form = form_of(question, read, prompt.left_out, self._vocabulary)
        try:
            branches = branches_of(form, self.tokenizer.answer, self._end)
        except ValueError as error:
            raise UnreadableError(str(error), is_permanent=False) from error
        prepared = PreparedInput(question, prompt.tokens, prompt.left_out, self.max_new_tokens, form, branches)
        if prepared.constraint is not None:
            _ = prepared.constraint.first  # here, since the thread that writes must not take long for a step
        return prepared

    def steps(self, bank: BatchAdapters) -> Steps:
        """Return rows that are written together; see `StepwiseFamily.steps`."""
        step_tokens = CPU_STEP_TOKENS if self.device.type == "cpu" else STEP_TOKENS
        decoder = Decoder(self.module, self.device, self._ends, self._token_bytes, self.memory_bytes, step_tokens)
        scoring = Scoring(self.module, self.device, bank, step_tokens, SCORED_ROWS)
        return Writing(decoder, bank, self._output, scoring, self._scored_output)

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any]) -> Tensor:
        """Compute the mean loss of the tokens of each answer, its end included; see `Family.loss`.

        Where labels are scored, it is their cross-entropy.
        """
        if prepared_inputs[0].branches is not None:
            return self._scored_losses(prepared_inputs, targets)
        answers = [
            self._answer(self._form(prepared).written(target))
            for prepared, target in zip(prepared_inputs, targets, strict=True)
        ]
        rows = [[*prepared.prompt, *answer] for prepared, answer in zip(prepared_inputs, answers, strict=True)]
        longest, longest_answer = max(map(len, rows)), max(map(len, answers))
        tokens, mask = (
            torch.tensor([[0] * (longest - len(row)) + row for row in table], device=self.device)
            for table in (rows, [[1] * len(row) for row in rows])
        )
        # Only the end of each row is answer, so the last layer computes only that much of its many logits.
        logits = self.module(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=longest_answer + 1,
        ).logits[:, :-1]
        right = torch.tensor(
            [[NOT_A_TARGET] * (longest_answer - len(answer)) + answer for answer in answers], device=self.device
        )
        losses = functional.cross_entropy(
            logits.float().transpose(1, 2), right, ignore_index=NOT_A_TARGET, reduction="none"
        )
        return losses.sum(1) / (right != NOT_A_TARGET).sum(1)

    def lora_layers(self) -> list[str]:
        """Return all linear layers but the last, whose weights may be those of the embedding."""
        last = {
            name for name, layer in self.module.named_modules() if layer is self.module.get_output_embeddings()
        }
        return [name for name in linear_layers(self.module) if name not in last]

    def _answer(self, text: str) -> list[int]:
        """The tokens of an answer: as many as the model may write, and the end if there is room for it."""
        tokens = [*self.tokenizer.answer(text), self._end]
        return tokens[: self.max_new_tokens]

    def _output(self, sequence: Draft) -> Contract:
        prepared: Any = sequence.prepared
        answered = Answered(sequence.tokens, sequence.probabilities, sequence.is_ended)
        return self._form(prepared).output(answered)

    def _form(self, prepared: PreparedInput) -> WrittenForm:
        if isinstance(prepared.form, ScoredForm):
            raise TypeError(f"{prepared.question.kind} is not written")
        return prepared.form or TextForm(prepared.left_out_tokens, self.tokenizer.text)

    def _scored_output(self, prepared: PreparedInput, scores: Tensor) -> Contract:
        return _scored_form(prepared).output(scores)

    def _scored_losses(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any]) -> Tensor:
        of_rows = label_scoring.scores(self.module, prepared_inputs, self.device)
        rows = zip(prepared_inputs, of_rows, targets, strict=True)
        return torch.stack([_scored_form(prepared).loss(scores, target) for prepared, scores, target in rows])

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        """What may be written is said in bytes."""
        return Vocabulary.of(self.tokenizer)

    @cached_property
    def _ends(self) -> frozenset[int]:
        """The tokens that end an answer: those that the model's files name."""
        named = (self.module.generation_config.eos_token_id, self.tokenizer.tokenizer.eos_token_id)
        ids = [token for each in named for token in (each if isinstance(each, list) else [each])]
        return frozenset(token for token in ids if token is not None)

    @cached_property
    def _end(self) -> int:
        """The token that is learned as the end: that of a turn, by the tokenizer."""
        end = self.tokenizer.tokenizer.eos_token_id
        return min(self._ends) if end is None else int(end)

    @cached_property
    def _token_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        config = self.module.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * dim * self.dtype.itemsize)


def _with_instruction(question: Written) -> TextInput:
    """The question as the prompt says it."""
    if isinstance(question, TextInput):
        return question
    return TextInput(contents=question.contents, instruction=question.instruction)


def _scored_form(prepared: PreparedInput) -> ScoredForm:
    if not isinstance(prepared.form, ScoredForm):
        raise TypeError(f"{prepared.question.kind} is not scored")
    return prepared.form


def _check_layers(config: Any) -> None:
    """Raise ValueError for a model whose layers keep other states than keys and values."""
    others = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if others:
        raise ValueError(f"its layers of kind {', '.join(sorted(others))} are not served")
