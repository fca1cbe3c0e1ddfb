"""The tokens of a Whisper model: those of texts, and those with a meaning of their own."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lorabel.evaluation.written_text import UNSPACED
from lorabel.families.generation.prompts import CONTROL_CHARACTERS
from lorabel.families.transcription.told_words import NOTHING, Told

# Models with fewer tokens know English only (https://github.com/openai/whisper, `is_multilingual`).
MULTILINGUAL_FROM = 51865
START, END, NO_TIMESTAMPS = "<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"
PREVIOUS = "<|startofprev|>"
TRANSCRIBE, TRANSLATE = "<|transcribe|>", "<|translate|>"
# Older files have the second name.
NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
# Words of one token are common: a model knows them.
RARE_FROM = 2
LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")


@dataclass(frozen=True)
class SpeechTokens:
    """Reads and writes texts. Thread-safe.

    Attributes:
        tokenizer: of transformers.
        data_tokens: tokenizes texts; it knows no special tokens.
        start, end, no_timestamps: begin and end a transcript, and say that it has no timestamps.
        no_speech: says that nobody speaks; None if the model has no such token.
        previous: begins the text that came before the window; None if the model has no such token.
        transcribe: says that nothing is translated; None if the model knows one language.
        languages: of which the model chooses one; empty if it knows one.
        never: (vocabulary,) bool: the tokens that no transcript has.
        not_first: (vocabulary,) bool: those that no transcript begins with.
    """

    tokenizer: Any
    data_tokens: Tokenizer
    start: int
    end: int
    no_timestamps: int
    no_speech: int | None
    previous: int | None
    transcribe: int | None
    languages: tuple[int, ...]
    never: Tensor
    not_first: Tensor

    @classmethod
    def of(cls, tokenizer: Any, module: Any, language: str) -> Self:
        """Take a tokenizer of transformers and the model to which it belongs.

        Args:
            language: a code such as `de` if all sounds have this language; else "".

        Raises:
            ValueError: it lacks tokens that Whisper models have, or the language.
        """
        settings = json.loads(tokenizer.backend_tokenizer.to_str())
        data_tokens = Tokenizer.from_str(json.dumps({**settings, "added_tokens": []}))
        known, generation = tokenizer.get_vocab(), module.generation_config
        missing = [token for token in (START, END, NO_TIMESTAMPS) if token not in known]
        if missing:
            raise ValueError(f"its tokenizer lacks {', '.join(missing)}")
        size, end = module.config.vocab_size, known[END]
        is_multilingual = getattr(generation, "is_multilingual", None)
        if is_multilingual is None:
            is_multilingual = size >= MULTILINGUAL_FROM
        never, not_first = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
        never[end + 1 :] = True
        never[list(generation.suppress_tokens or ())] = True
        not_first[list(generation.begin_suppress_tokens or ())] = True
        return cls(
            tokenizer,
            data_tokens,
            known[START],
            end,
            known[NO_TIMESTAMPS],
            next((known[name] for name in NO_SPEECH if name in known), None),
            known.get(PREVIOUS),
            known[TRANSCRIBE] if is_multilingual else None,
            _languages(known, language, is_multilingual),
            never,
            not_first,
        )

    def prompt(self, logits: Tensor) -> tuple[int, ...]:
        """Return all tokens before a transcript.

        Args:
            logits: (vocabulary,) of the token after `start`.
        """
        if self.transcribe is None:
            return self.start, self.no_timestamps
        language = max(self.languages, key=lambda token: float(logits[token]))
        return self.start, language, self.transcribe, self.no_timestamps

    def told(self, words: Sequence[str], most_tokens: int) -> Told:
        """Return rare words, and tokens that list them as a text that came before a window.

        A model spells names and terms as it has done before (https://arxiv.org/abs/2212.04356, section 2.3).

        Args:
            words: the most important first. They are listed last, where they count most.
            most_tokens: of the list.
        """
        chosen: dict[str, str] = {}
        left = most_tokens - 1
        for word in words if self.previous is not None else ():
            count = len(self.answer(word))
            if count < RARE_FROM or word.casefold() in chosen:
                continue
            left -= count + 1
            if left < 0:
                break
            chosen[word.casefold()] = word
        if not chosen or self.previous is None:
            return NOTHING
        in_order = list(chosen.values())[::-1]
        tokens = (self.previous, *self.answer(f"{', '.join(in_order)}."))
        return Told(tuple(word.casefold() for word in in_order), tokens)

    def no_speech_probability(self, logits: Tensor) -> float:
        """Return the probability that nobody speaks; 0 if the model does not tell it.

        Args:
            logits: see `prompt`.
        """
        return 0.0 if self.no_speech is None else math.exp(float(logits.log_softmax(-1)[self.no_speech]))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of the tokens that a model has written, without control characters."""
        ordinary = [token for token in tokens if token < self.end]
        text: str = self.tokenizer.decode(ordinary, clean_up_tokenization_spaces=False)
        return CONTROL_CHARACTERS.sub("", text).strip()

    def answer(self, text: str) -> list[int]:
        """Return the tokens of a text as Whisper models write it: with a space before its first word."""
        text = text.strip().encode(errors="replace").decode()
        spaced = text if not text or re.match(UNSPACED, text) else f" {text}"
        ids = self.data_tokens.encode(spaced, add_special_tokens=False).ids
        return [token for token in ids if token < self.end]


def _languages(known: dict[str, int], language: str, is_multilingual: bool) -> tuple[int, ...]:
    codes = {match[1]: known[token] for token in known if (match := LANGUAGE.fullmatch(token))}
    if language and (language not in codes if is_multilingual else language != "en"):
        names = ", ".join(sorted(codes)) if is_multilingual else "en"
        raise ValueError(f"it does not know SPEECH_LANGUAGE={language!r}; it knows {names}")
    if not is_multilingual:
        return ()
    return (codes[language],) if language else tuple(codes.values())
