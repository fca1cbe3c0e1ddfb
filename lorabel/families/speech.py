"""Whisper models of transformers, which write down what is said in a sound.

Whisper (https://arxiv.org/abs/2212.04356) hears 30 s at once. A longer sound is cut into windows at its pauses,
and their texts are joined. The states of the encoder are computed once for each window and remembered by its
content. Texts are written step by step, greedily, without timestamps. LoRA goes on all linear layers of the
decoder.

Memory: keys and values of a window take 1500 positions, beside those of its text. Windows wait where they do not
fit into GENERATOR_MEMORY_MB together.
"""

import logging
import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoTokenizer, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from lorabel.contracts import BatchAdapters, Input, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import LOAD_DTYPE, NO_BATCH_ADAPTERS, DigestOf, Fetch, transformers_name
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.core_threads import all_at_once
from lorabel.families.generation.decoding import Decoder, Decoding, Draft
from lorabel.families.generation.stepwise import Steps, StepwiseFamily
from lorabel.families.lora_layers import linear_layers
from lorabel.families.segments.voice_activity import VoiceActivity
from lorabel.families.transcription.conversion import is_ctranslate2
from lorabel.families.transcription.heard_sound import Hearing, Line, PreparedSound, Spans, Window
from lorabel.families.transcription.hearing import hear, hear_part
from lorabel.families.transcription.listening import Listening
from lorabel.families.transcription.segment_texts import divided_among, joined_texts, nothing_heard, of_windows
from lorabel.families.transcription.sound_windows import segment_windows, speech_windows
from lorabel.families.transcription.spectrograms import spectrograms
from lorabel.families.transcription.speech_tokens import SpeechTokens
from lorabel.families.transcription.text_decoder import TextDecoder, window_inputs
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.families.transcription.told_words import NOTHING, Told, is_of_words
from lorabel.media.audio import decode_beginning
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.text_contracts import (
    SegmentTextsTarget,
    SegmentTranscripts,
    SegmentTranscriptsInput,
    TextTarget,
    TranscriptInput,
    WrittenText,
)

log = logging.getLogger(__name__)

SpokenTarget = TextTarget | SegmentTextsTarget

MEGABYTE = 1024 * 1024
DECODER = "model.decoder."
# Windows that are written together, at most: a click may have to wait for a step.
MOST_WINDOWS, CPU_MOST_WINDOWS = 32, 8
# Windows that a CPU encodes at once, each on an equal share of its cores.
MOST_HEARD = 2
# Quick speech has about 8 tokens a second. Without a limit, a model that begins to repeat itself never ends.
TOKENS_PER_S, FEWEST_TOKENS = 15, 16
# Of the positions of a model, most that names and terms may take which are told it.
WORDS_SHARE = 0.25
# A window is without speech if the model says so, and does not believe what it has written (Whisper's own rule).
NO_SPEECH_FROM, LEAST_LOG_PROBABILITY = 0.6, -1.0
NOT_A_TARGET = -100
SMALLEST = 1e-9
# Prompts are so short that all of them are read in one step.
ANY_TOKENS = 1 << 20


@dataclass(frozen=True)
class Speech(StepwiseFamily):
    """Whisper models of transformers.

    Attributes:
        extractor: the feature extractor of transformers: samples -> mel spectrograms.
        tokens: reads and writes texts.
        most_s: longest part of a sound that is read, in seconds.
        memory_bytes: for keys and values.
    """

    name: ClassVar[str] = "speech"
    inputs: ClassVar[tuple[type[Input], ...]] = (TranscriptInput, SegmentTranscriptsInput)
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO})
    default_source: ClassVar[str] = "hf-hub:openai/whisper-small"
    learning_rate_factor: ClassVar[float] = 0.2
    most_train_batch: ClassVar[int | None] = 4
    most_tested: ClassVar[int | None] = 50

    source: str
    module: Any
    device: torch.device
    dtype: torch.dtype
    extractor: Any
    tokens: SpeechTokens
    most_s: float
    memory_bytes: int

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        if is_ctranslate2(Path(name)):
            raise SettingsError(
                f"MODEL_SPEECH={source!r} is in the format of CTranslate2; `lorabel convert-model {name} FOLDER` "
                "writes it as transformers reads it"
            )
        try:
            module = WhisperForConditionalGeneration.from_pretrained(
                name, dtype=LOAD_DTYPE, use_safetensors=True, attn_implementation="sdpa"
            )
            extractor = WhisperFeatureExtractor.from_pretrained(name)
            tokens = SpeechTokens.of(AutoTokenizer.from_pretrained(name), module, settings.speech_language)
        except Exception as error:
            raise SettingsError(
                f"MODEL_SPEECH={source!r} cannot be loaded: {error}; expected hf-hub:owner/name, or "
                "local-dir:folder as transformers saves a Whisper model, its feature extractor and its tokenizer"
            ) from error
        module.requires_grad_(False).eval().to(device=device, dtype=dtype)
        memory_bytes = settings.generator_memory_mb * MEGABYTE
        return cls(source, module, device, dtype, extractor, tokens, settings.speech_max_s, memory_bytes)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny Whisper whose tokens are bytes, and which hears a second at once; see `Family.tiny`."""
        return write_speech_model(folder)

    def prepare(self, question: TranscriptInput, fetch: Fetch) -> PreparedSound:
        """Decode a sound, and compute the spectrograms of its windows; see `Family.prepare`."""
        (content,) = question.contents
        if content.media is None:
            raise UnreadableError("the sound has no address", is_permanent=True)
        file, rate_hz = fetch(content.media), self.extractor.sampling_rate
        sound, length_s = decode_beginning(file, rate_hz, self.most_s)
        is_cut = length_s > len(sound) / rate_hz + 1 / rate_hz
        if is_cut:
            log.info("a sound of %.0f s is transcribed up to %.0f s (SPEECH_MAX_S)", length_s, self.most_s)
        counts: tuple[int, ...] = ()
        if isinstance(question, SegmentTranscriptsInput):
            spans, counts = segment_windows(
                sound, rate_hz, self.extractor.n_samples, question.segments, self._voice
            )
        else:
            spans = speech_windows(sound, rate_hz, self.extractor.n_samples, self._voice)
        if not spans:
            raise UnreadableError(nothing_heard(question, len(sound) / rate_hz), is_permanent=True)
        parts = [sound[start:end] for start, end in spans]
        file_digest = digest(file)
        windows = [
            Window((file_digest, start, end), (end - start) / rate_hz, spectrogram)
            for (start, end), spectrogram in zip(spans, spectrograms(self.extractor, parts), strict=True)
        ]
        return PreparedSound(question, tuple(windows), is_cut, self._told(question), counts)

    def recall(
        self,
        question: TranscriptInput,
        digest_of: DigestOf,
        adapter: str | None,
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> PreparedSound | None:
        """Take what was heard in all windows from the cache; see `Family.recall`."""
        (content,) = question.contents
        file_digest = None if content.media is None else digest_of(content.media)
        spans = None if file_digest is None else cache.get(EMBEDDINGS, self._spans_key(file_digest, question))
        if not isinstance(spans, Spans):
            return None
        windows = tuple(
            Window(key, length_s, hearing=cache.get(EMBEDDINGS, self._key(key))) for key, length_s in spans.windows
        )
        if any(window.hearing is None for window in windows):
            return None
        # An adapter that cannot be loaded fails here its own row, and not in the device's thread all that are in.
        bank.effective_adapter(adapter, ())
        return PreparedSound(question, windows, spans.is_cut, self._told(question), spans.counts)

    def precompute(
        self, prepared_inputs: Sequence[PreparedSound], trained: Collection[str], generator: torch.Generator | None
    ) -> Sequence[PreparedSound]:
        """Compute what is heard, which no adapter changes; see `Family.precompute`.

        The windows of a long sound that is learned from are written once: `augment` finds out by these texts which
        part of the right text each window has.
        """
        for prepared in prepared_inputs:
            self.hear(prepared.windows)
            if generator is not None:
                self._draft(prepared)
        return prepared_inputs

    def augment(
        self, prepared_inputs: Sequence[PreparedSound], targets: Sequence[SpokenTarget], generator: torch.Generator
    ) -> tuple[Sequence[PreparedSound], Sequence[TextTarget]]:
        """Take a random window of each sound, and its part of the text; see `Family.augment`."""
        pairs = []
        for prepared, target in zip(prepared_inputs, targets, strict=True):
            parts = self._parts(prepared, target)
            window, text = parts[int(torch.randint(len(parts), (), generator=generator))]
            pairs.append((of_windows(prepared, (window,)), TextTarget(text)))
        return [prepared for prepared, _ in pairs], [target for _, target in pairs]

    def steps(self, bank: BatchAdapters, cache: FeatureCache) -> Steps:
        """Return rows that are written together; see `StepwiseFamily.steps`."""
        most_windows = CPU_MOST_WINDOWS if self.device.type == "cpu" else MOST_WINDOWS
        return Listening(
            Decoding(self._decoder(), bank, self._window_text),
            Decoding(self._decoder(), bank, self._window_text),
            partial(self._see, bank=bank, cache=cache),
            self._line,
            self._written_anew,
            max(1, min(most_windows, self.memory_bytes // self._line_bytes)),
            self.most_heard,
            partial(self._output, cache=cache),
        )

    def loss(self, prepared_inputs: Sequence[PreparedSound], targets: Sequence[SpokenTarget]) -> Tensor:
        """Compute the mean loss of the tokens of each text, its end included; see `Family.loss`."""
        parts = [self._parts(*pair) for pair in zip(prepared_inputs, targets, strict=True)]
        windows = [window for of_sound in parts for window, _ in of_sound]
        hearings = self.hear(windows)
        answers = [
            [*self.tokens.answer(text), self.tokens.end][: self._most_tokens(hearing)]
            for hearing, (_, text) in zip(hearings, (part for of_sound in parts for part in of_sound), strict=True)
        ]
        rows = [[*hearing.prompt, *answer] for hearing, answer in zip(hearings, answers, strict=True)]
        longest = max(map(len, rows))
        tokens, right = (
            torch.tensor([row + [pad] * (longest - len(row)) for row in table], device=self.device)
            for table, pad in (
                (rows, self.tokens.end),
                (
                    [[NOT_A_TARGET] * (len(row) - len(a)) + a for row, a in zip(rows, answers, strict=True)],
                    NOT_A_TARGET,
                ),
            )
        )
        states = BaseModelOutput(last_hidden_state=torch.stack([hearing.states for hearing in hearings]))
        logits = self.module(encoder_outputs=states, decoder_input_ids=tokens[:, :-1], use_cache=False).logits
        losses = functional.cross_entropy(
            logits.float().transpose(1, 2), right[:, 1:], ignore_index=NOT_A_TARGET, reduction="none"
        ).sum(1)
        counts = [len(of_sound) for of_sound in parts]
        lengths = torch.tensor([len(answer) for answer in answers], device=self.device)
        of_sounds = zip(torch.split(losses, counts), torch.split(lengths, counts), strict=True)
        return torch.stack([of_windows.sum() / counted.sum() for of_windows, counted in of_sounds])

    def lora_layers(self) -> list[str]:
        """Return all linear layers of the decoder but the last, whose weights are the embedding's.

        The encoder has none, so that what is heard is the same for all projects.
        """
        return [name for name in linear_layers(self.module) if name.startswith(DECODER)]

    @property
    def most_heard(self) -> int:
        """Windows that are heard at once."""
        return min(MOST_HEARD, torch.get_num_threads()) if self.device.type == "cpu" else 1

    @torch.no_grad()
    def hear(self, windows: Sequence[Window], *, are_written: bool = False) -> list[Hearing]:
        """Hear windows by the base model.

        Args:
            are_written: whether they are written next, so that keys and values are kept for them.
        """
        hear_one, most = partial(self._hear, is_written=are_written), self.most_heard
        groups = [windows[first : first + most] for first in range(0, len(windows), most)]
        return [hearing for group in groups for hearing in all_at_once(hear_one, group, self.device)]

    def _decoder(self) -> Decoder:
        return Decoder(
            TextDecoder(self.module, self.tokens.never.to(self.device), self.tokens.not_first.to(self.device)),
            self.device,
            frozenset({self.tokens.end}),
            0,  # Windows are admitted by their number.
            self.memory_bytes,
            ANY_TOKENS,
            window_inputs,
        )

    def _see(self, windows: Sequence[Window], bank: BatchAdapters, cache: FeatureCache) -> bool:
        """Compute the next part of what is heard in windows; False if nothing is left to hear in the first."""
        for window in windows:
            hearing = None if window.hearing is not None else cache.get(EMBEDDINGS, self._key(window.key))
            if hearing is not None:
                window.keep(hearing)
        unheard = [window for window in windows if window.hearing is None]
        if windows[0] not in unheard:
            return False
        with bank.use([None]), torch.no_grad():
            hearings = all_at_once(partial(self._hear_part, is_written=True), unheard, self.device)
        for window, hearing in zip(unheard, hearings, strict=True):
            if hearing is not None:
                cache.put(EMBEDDINGS, self._key(window.key), hearing)
        return True

    def _hear(self, window: Window, *, is_written: bool = False) -> Hearing:
        return hear(window, self.module, self.tokens, self.device, self.dtype, is_written=is_written)

    def _hear_part(self, window: Window, *, is_written: bool) -> Hearing | None:
        return hear_part(window, self.module, self.tokens, self.device, self.dtype, is_written=is_written)

    def _draft(self, prepared: PreparedSound) -> None:
        """Let the model write about each of several windows of one text, if it has not."""
        of_texts = prepared.of_segments(prepared.windows) if prepared.counts else [prepared.windows]
        windows = [
            window for of_text in of_texts if len(of_text) > 1 for window in of_text if window.draft is None
        ]
        if not windows:
            return
        sounds = [of_windows(prepared, (window,)) for window in windows]
        outputs = self.predict(sounds, [None] * len(sounds), NO_BATCH_ADAPTERS, FeatureCache({}))
        for window, output in zip(windows, outputs, strict=True):
            window.draft = output.text  # type: ignore[attr-defined]

    def _parts(self, prepared: PreparedSound, target: SpokenTarget) -> list[tuple[Window, str]]:
        """The windows of a sound, each with its part of the right text."""
        self._draft(prepared)
        if isinstance(target, SegmentTextsTarget):
            pairs = zip(prepared.of_segments(prepared.windows), target.texts, strict=True)
            return [part for windows, text in pairs for part in divided_among(windows, text)]
        return divided_among(prepared.windows, target.text)

    def _told(self, question: TranscriptInput) -> Told:
        return self.tokens.told(question.words, int(self.module.config.max_target_positions * WORDS_SHARE))

    def _line(self, window: Window, told: Told = NOTHING) -> Line:
        """Nothing is told about a window in which hardly anybody speaks: a model writes what it was told there."""
        hearing = window.hearing
        if hearing is None:
            raise RuntimeError("a window is written before it was heard")
        if hearing.no_speech_probability > NO_SPEECH_FROM:
            told = NOTHING
        limit = FEWEST_TOKENS + math.ceil(TOKENS_PER_S * window.length_s)
        most = self._most_tokens(hearing) - len(told.tokens)
        return Line(window, (*told.tokens, *hearing.prompt), min(limit, most), told)

    def _written_anew(self, line: Line, text: WrittenText) -> Line | None:
        """The window without the words, if a text is not of what is said but of the words."""
        return self._line(line.window) if line.told.words and is_of_words(text, line.told) else None

    def _most_tokens(self, hearing: Hearing) -> int:
        """Of a text, its end included: those for which the model has positions."""
        return int(self.module.config.max_target_positions) - len(hearing.prompt)

    def _window_text(self, draft: Draft) -> WrittenText:
        line: Any = draft.prepared
        probabilities = draft.probabilities
        mean = sum(math.log(max(chance, SMALLEST)) for chance in probabilities) / len(probabilities)
        is_silent = line.window.hearing.no_speech_probability > NO_SPEECH_FROM and mean < LEAST_LOG_PROBABILITY
        return WrittenText(
            text="" if is_silent else self.tokens.text(draft.tokens),
            probability=sum(probabilities) / len(probabilities),
            is_complete=draft.is_ended,
        )

    def _output(
        self, prepared: PreparedSound, texts: Sequence[WrittenText], cache: FeatureCache
    ) -> WrittenText | SegmentTranscripts:
        """The text of all windows, or those of each segment."""
        windows = tuple((window.key, window.length_s) for window in prepared.windows)
        key = self._spans_key(windows[0][0][0], prepared.question)
        cache.put(EMBEDDINGS, key, Spans(windows, prepared.is_cut, prepared.counts))
        if prepared.counts:
            return SegmentTranscripts(answers=tuple(map(joined_texts, prepared.of_segments(texts))))
        joined_text = joined_texts(texts)
        is_complete = joined_text.is_complete and not prepared.is_cut
        return joined_text.model_copy(update={"is_complete": is_complete})

    def _key(self, window: tuple[str, int, int]) -> Hashable:
        return self.space, window

    def _spans_key(self, file_digest: str, question: TranscriptInput) -> Hashable:
        segments = question.segments if isinstance(question, SegmentTranscriptsInput) else None
        return self.space, file_digest, segments

    @cached_property
    def _voice(self) -> VoiceActivity:
        return VoiceActivity.load()

    @cached_property
    def _line_bytes(self) -> int:
        """Bytes of the keys and values of a window and of the longest text."""
        config = self.module.config
        positions = config.max_source_positions + config.max_target_positions
        return int(2 * config.decoder_layers * config.d_model * positions * self.dtype.itemsize)
