"""transformers models that write about texts and pictures as they are told: texts, labels, spans, numbers.

The model is one that follows instructions, with a chat template: a vision-language model, or a language model,
which reads no pictures. It writes step by step, greedily or with beams. LoRA goes on all linear layers of the
language model but the last one, which turns states into tokens; the loss is that of the answer's tokens.

Memory: the keys and values of a row take its prompt and its most new tokens times the bytes of one token. Rows
wait where they do not fit into GENERATOR_MEMORY_MB together.
"""

import logging
from collections.abc import Collection, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import BatchAdapters, Contract, Input, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.families.base import DigestOf, Fetch
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.generation import label_scoring
from lorabel.families.generation.answer_forms import (
    Answered,
    ScoredForm,
    TextForm,
    WrittenForm,
    branches_of,
    form_of,
)
from lorabel.families.generation.checkpointing import checkpointed
from lorabel.families.generation.decoding import Decoder, Draft
from lorabel.families.generation.label_scoring import Scoring
from lorabel.families.generation.models import load_model
from lorabel.families.generation.picture_inputs import picture_inputs
from lorabel.families.generation.pictures import (
    Picture,
    PictureReader,
    compute_features,
    rope_positions,
)
from lorabel.families.generation.prepared import PreparedInput
from lorabel.families.generation.prompts import CHARACTERS_PER_TOKEN, ChatTokenizer
from lorabel.families.generation.shown_contents import picture_count, picture_digests, read_pictures
from lorabel.families.generation.stepwise import Steps, StepwiseFamily
from lorabel.families.generation.tiny_models import write_vision_language_model
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
# Tokens of prompts that one step computes, at most: a click may have to wait for it.
STEP_TOKENS, CPU_STEP_TOKENS = 512, 256
# Rows whose labels are scored together.
SCORED_ROWS = 8
NOT_A_TARGET = -100


@dataclass(frozen=True)
class Generator(StepwiseFamily):
    """Vision-language models and causal language models of transformers.

    Attributes:
        module: the model with its last layer.
        tokenizer: makes the prompts.
        reader: reads pictures; None if the model reads only texts.
        max_prompt_tokens: of a prompt.
        max_new_tokens: of an answer.
        memory_bytes: for keys and values.
        beams: lines that a beam search writes of each answer; 1 for greedy decoding.
        is_checkpointed: whether training keeps no states of layers; see `checkpointed`.
    """

    name: ClassVar[str] = "generator"
    inputs: ClassVar[tuple[type[Input], ...]] = (
        TextInput,
        WrittenLabelsInput,
        WrittenSpansInput,
        WrittenNumberInput,
    )
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT, Modality.IMAGE, Modality.VIDEO})
    default_source: ClassVar[str] = "hf-hub:HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
    learning_rate_factor: ClassVar[float] = 0.2
    most_train_batch: ClassVar[int | None] = 4
    most_tested: ClassVar[int | None] = 50

    source: str
    module: Any
    device: torch.device
    dtype: torch.dtype
    tokenizer: ChatTokenizer
    reader: PictureReader | None
    max_prompt_tokens: int
    max_new_tokens: int
    memory_bytes: int
    beams: int = 1
    is_checkpointed: bool = False

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        model = load_model(source, device, dtype, settings)
        return cls(
            source,
            model.module,
            device,
            dtype,
            model.tokenizer,
            model.reader,
            model.max_prompt_tokens,
            model.max_new_tokens,
            settings.generator_memory_mb * MEGABYTE,
            settings.generator_beams,
            settings.generator_checkpointing,
        )

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny SmolVLM whose tokens are bytes; see `Family.tiny`."""
        return write_vision_language_model(folder)

    def prepare(self, question: Written, fetch: Fetch) -> PreparedInput:
        """Read texts and pictures, and make the prompt; see `Family.prepare`."""
        pictures: list[Picture] = []
        if picture_count(question, self._video_frames):
            if self.reader is None:
                raise UnreadableError(
                    f"MODEL_GENERATOR={self.source!r} reads no pictures; a vision-language model is needed",
                    is_permanent=False,
                )
            pictures = list(read_pictures(question, fetch, self.reader))
        return self._prepared(question, pictures, fetch)

    def recall(
        self,
        question: Written,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedInput | None:
        """Make the prompt with pictures whose features are known; see `Family.recall`."""
        count = picture_count(question, self._video_frames)
        if not count or any(content.text_format is not None for content in question.contents):
            return None
        digests = picture_digests(question, digest_of, self._video_frames)
        if digests is None:
            return None
        pictures: list[Picture] = []
        for file_digest in digests:
            features = cache.get(EMBEDDINGS, self._key(file_digest, count))
            if features is None:
                return None
            pictures.append(Picture.remembered(file_digest, features))
        # An adapter that cannot be loaded fails here its own row, and not in the device's thread all that are in.
        bank.effective_adapter(adapter, ())
        return self._prepared(question, pictures, _fetch_nothing)

    def precompute(
        self, prepared_inputs: Sequence[PreparedInput], trained: Collection[str], generator: torch.Generator | None
    ) -> Sequence[PreparedInput]:
        """Compute the features of all pictures, which no adapter changes; see `Family.precompute`.

        Only the features stay in memory, and nothing of what `prepare` found about the answers that are allowed:
        of a long text that is megabytes, and `loss` does not need it.
        """
        self._see_all(prepared_inputs)
        return [
            prepared if prepared.form is None else replace(prepared, form=replace(prepared.form))
            for prepared in prepared_inputs
        ]

    @property
    def _video_frames(self) -> int:
        return 1 if self.reader is None else self.reader.settings.generator_video_frames

    def _key(self, file_digest: str, count: int) -> Hashable:
        """The key of the features of one of some pictures, which depend on how many tokens it may take."""
        return self.space, file_digest, 0 if self.reader is None else self.reader.most_tokens(count)

    def _prepared(self, question: Written, pictures: Sequence[Picture], fetch: Fetch) -> PreparedInput:
        """Read the texts and make the prompt."""
        texts = [
            content.text or ""
            if content.media is None or content.text_format is None
            else read_text_file(fetch(content.media), content.text_format)
            for content in question.contents
            if content.modality == Modality.TEXT
        ]
        if not pictures and not any(text.strip() for text in texts):
            raise UnreadableError("the task has no text to write about", is_permanent=True)
        try:
            shown = [picture.tokens for picture in pictures]
            prompt = self.tokenizer.prompt(_with_instruction(question), texts, self.max_prompt_tokens, shown)
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
        positions = rope_positions(self.module, prompt.tokens, pictures, self._placeholder)
        longest, unread = self.max_prompt_tokens * CHARACTERS_PER_TOKEN, iter(texts)
        read = [next(unread)[:longest] if each.modality == Modality.TEXT else "" for each in question.contents]
        form = form_of(question, read, prompt.left_out, self._vocabulary)
        try:
            branches = branches_of(form, self.tokenizer.answer, self._end)
        except ValueError as error:
            raise UnreadableError(str(error), is_permanent=False) from error
        prepared = PreparedInput(
            question,
            prompt.tokens,
            prompt.left_out,
            self.max_new_tokens,
            tuple(pictures),
            positions,
            form,
            branches,
        )
        if prepared.constraint is not None:
            prepared.constraint.prepare()
        return prepared

    def steps(self, bank: BatchAdapters, cache: FeatureCache) -> Steps:
        """Return rows that are written together; see `StepwiseFamily.steps`."""
        step_tokens = CPU_STEP_TOKENS if self.device.type == "cpu" else STEP_TOKENS
        decoder = Decoder(
            self.module,
            self.device,
            self._ends,
            self._token_bytes,
            self.memory_bytes,
            step_tokens,
            partial(picture_inputs, placeholder=self._placeholder),
            self.beams,
        )
        logits_bytes = self.module.config.get_text_config().vocab_size * self.dtype.itemsize
        scoring = Scoring(
            self.module, self.device, bank, step_tokens, SCORED_ROWS, self._token_bytes, logits_bytes
        )
        see = partial(self._see, cache=cache)
        return Writing(decoder, bank, self._output, see, scoring, self._scored_output)

    def _see(self, prepared: PreparedInput, cache: FeatureCache) -> bool:
        """Compute or remember the features of the first picture that has none; False if all have some."""
        picture = next((picture for picture in prepared.pictures if picture.features is None), None)
        if picture is None:
            return False
        key = self._key(picture.digest, len(prepared.pictures))
        features = cache.get(EMBEDDINGS, key)
        if features is None:
            features = compute_features(self.module, picture)
            cache.put(EMBEDDINGS, key, features)
        picture.keep(features)
        return True

    def _see_all(self, prepared_inputs: Sequence[PreparedInput]) -> None:
        for prepared in prepared_inputs:
            while self._see(prepared, FeatureCache({})):
                """One picture at a time."""

    def loss(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any]) -> Tensor:
        """Compute the mean loss of the tokens of each answer, its end included; see `Family.loss`.

        Where labels are scored, it is their cross-entropy.
        """
        with checkpointed(self.module) if self.is_checkpointed else nullcontext():
            if prepared_inputs[0].branches is not None:
                return self._scored_losses(prepared_inputs, targets)
            return self._written_losses(prepared_inputs, targets)

    def _written_losses(self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any]) -> Tensor:
        self._see_all(prepared_inputs)
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
            use_cache=False,
            logits_to_keep=longest_answer + 1,
            **picture_inputs(prepared_inputs, mask, 0, self._placeholder),
        ).logits[:, :-1]
        right = torch.tensor(
            [[NOT_A_TARGET] * (longest_answer - len(answer)) + answer for answer in answers], device=self.device
        )
        losses = functional.cross_entropy(
            logits.float().transpose(1, 2), right, ignore_index=NOT_A_TARGET, reduction="none"
        )
        return losses.sum(1) / (right != NOT_A_TARGET).sum(1)

    def lora_layers(self) -> list[str]:
        """Return all linear layers of the language model but the last, whose weights may be the embedding's.

        The vision part has none, so that the features of pictures are the same for all projects.
        """
        parts = {name for name, layer in self.module.named_modules() if layer is self.module.get_decoder()}
        return [name for name in linear_layers(self.module) if any(name.startswith(f"{part}.") for part in parts)]

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
    def _placeholder(self) -> int:
        """See `PictureReader`; no token if the model reads no pictures."""
        return -1 if self.reader is None else self.reader.placeholder

    @cached_property
    def _token_bytes(self) -> int:
        """Bytes of the keys and values of one token in all layers."""
        config = self.module.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * dim * self.dtype.itemsize)


def _fetch_nothing(media: MediaRef) -> bytes:
    raise RuntimeError(f"{media.url} is fetched for a question whose files are all known")


def _with_instruction(question: Written) -> TextInput:
    """The question as the prompt says it."""
    if isinstance(question, TextInput):
        return question
    return TextInput(contents=question.contents, instruction=question.instruction)


def _scored_form(prepared: PreparedInput) -> ScoredForm:
    if not isinstance(prepared.form, ScoredForm):
        raise TypeError(f"{prepared.question.kind} is not scored")
    return prepared.form
