"""transformers language models that write a text about a text, as the instruction says.

The model is one that follows instructions, with a chat template. It writes step by step, greedily or with beams.
LoRA goes on all linear layers but the last one, which turns states into tokens; the loss is that of the answer's
tokens.

Memory: the keys and values of a row take its prompt and its most new tokens times the bytes of one token. Rows
wait where they do not fit into GENERATOR_MEMORY_MB together.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
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

from lorabel.contracts import BatchAdapters, Input, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import LOAD_DTYPE, Fetch, transformers_name
from lorabel.families.generation.checkpointing import checkpointed
from lorabel.families.generation.decoding import Decoder, Decoding, Draft
from lorabel.families.generation.prompts import ChatTokenizer
from lorabel.families.generation.quantization import quantized
from lorabel.families.generation.stepwise import StepwiseFamily
from lorabel.families.lora_layers import linear_layers
from lorabel.media.text import read_text_file
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, TextTarget, WrittenText

log = logging.getLogger(__name__)

MEGABYTE = 1024 * 1024
# Kinds of layers whose states are keys and values, which the rows of a batch can share.
SERVED_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
# Tokens of prompts that one step computes, at most: a click may have to wait for it.
STEP_TOKENS, CPU_STEP_TOKENS = 512, 128
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
    """

    question: TextInput
    prompt: tuple[int, ...]
    left_out_tokens: int
    max_new_tokens: int


@dataclass(frozen=True)
class Generator(StepwiseFamily):
    """Causal language models of transformers.

    Attributes:
        module: the model with its last layer.
        tokenizer: makes the prompts.
        max_prompt_tokens: of a prompt.
        max_new_tokens: of an answer.
        memory_bytes: for keys and values.
        beams: lines that a beam search writes of each answer; 1 for greedy decoding.
        is_checkpointed: whether training keeps no states of layers; see `checkpointed`.
    """

    name: ClassVar[str] = "generator"
    inputs: ClassVar[tuple[type[Input], ...]] = (TextInput,)
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
    beams: int = 1
    is_checkpointed: bool = False

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            tokenizer = ChatTokenizer.of(AutoTokenizer.from_pretrained(name, trust_remote_code=False))
            module = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=LOAD_DTYPE,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="sdpa",
                **quantized(settings, device, dtype),
            )
            _check_layers(module.config)
        except Exception as error:
            raise SettingsError(
                f"MODEL_GENERATOR={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a causal language model of transformers with safetensors, a fast tokenizer "
                "and a chat template"
            ) from error
        module.requires_grad_(False).eval()
        if not settings.generator_4bit:  # else it is on the device already
            module.to(device=device, dtype=dtype)
        positions = getattr(module.config, "max_position_embeddings", None) or 1 << 30
        max_new_tokens = min(settings.generator_max_new_tokens, positions // 2)
        max_prompt_tokens = min(settings.generator_max_prompt_tokens, positions - max_new_tokens)
        memory_bytes = settings.generator_memory_mb * MEGABYTE
        return cls(
            source,
            module,
            device,
            dtype,
            tokenizer,
            max_prompt_tokens,
            max_new_tokens,
            memory_bytes,
            settings.generator_beams,
            settings.generator_checkpointing,
        )

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

    def prepare(self, question: TextInput, fetch: Fetch) -> PreparedInput:
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
            prompt = self.tokenizer.prompt(question, texts, self.max_prompt_tokens)
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
        return PreparedInput(question, prompt.tokens, prompt.left_out, self.max_new_tokens)

    def steps(self, bank: BatchAdapters) -> Decoding:
        """Return rows that are written together; see `StepwiseFamily.steps`."""
        step_tokens = CPU_STEP_TOKENS if self.device.type == "cpu" else STEP_TOKENS
        decoder = Decoder(
            self.module, self.device, self._ends, self._token_bytes, self.memory_bytes, step_tokens, self.beams
        )
        return Decoding(decoder, bank, self._output)

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[TextTarget]) -> Tensor:
        """Compute the mean loss of the tokens of each answer, its end included; see `Family.loss`."""
        answers = [self._answer(target) for target in targets]
        rows = [[*prepared.prompt, *answer] for prepared, answer in zip(prepared_inputs, answers, strict=True)]
        longest, longest_answer = max(map(len, rows)), max(map(len, answers))
        tokens, mask = (
            torch.tensor([[0] * (longest - len(row)) + row for row in table], device=self.device)
            for table in (rows, [[1] * len(row) for row in rows])
        )
        # Only the end of each row is answer, so the last layer computes only that much of its many logits.
        with checkpointed(self.module) if self.is_checkpointed else nullcontext():
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

    def _answer(self, target: TextTarget) -> list[int]:
        """The tokens of an answer: as many as the model may write, and the end if there is room for it."""
        tokens = [*self.tokenizer.answer(target.text), self._end]
        return tokens[: self.max_new_tokens]

    def _output(self, sequence: Draft) -> WrittenText:
        prepared: Any = sequence.prepared
        text = self.tokenizer.text(sequence.tokens)
        probabilities = sequence.probabilities
        return WrittenText(
            text=text,
            probability=min(1.0, sum(probabilities) / max(1, len(probabilities))),
            is_complete=sequence.is_ended,
            left_out_tokens=prepared.left_out_tokens,
        )

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


def _check_layers(config: Any) -> None:
    """Raise ValueError for a model whose layers keep other states than keys and values."""
    others = set(getattr(config, "layer_types", None) or ()) - SERVED_LAYERS
    if others:
        raise ValueError(f"its layers of kind {', '.join(sorted(others))} are not served")
