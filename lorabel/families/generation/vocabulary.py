"""The bytes that each token stands for, so that grammars need not know tokens."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from lorabel.families.generation.prompts import ChatTokenizer

# Tokens with more bytes are written in parts. Each token costs a look-up for each of its bytes.
LONGEST_TOKEN = 24
# How tokenizers of SentencePiece write a space, and a byte that is no character.
SPACE = "\u2581"
BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True)
class Vocabulary:
    """The ordinary tokens of a tokenizer. Immutable.

    Args:
        bytes_of: token -> its bytes of UTF-8. A token may hold a part of a character only.
        token_of: bytes -> the token. Of several, the first.
    """

    bytes_of: Mapping[int, bytes]
    token_of: Mapping[bytes, int]

    @classmethod
    def of(cls, chat: ChatTokenizer) -> Self:
        """Read the vocabulary of a tokenizer: of whole bytes (as GPT-2's), or of SentencePiece."""
        backend = chat.data_tokens
        is_bytes = '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"])
        alphabet = _byte_alphabet()
        bytes_of: dict[int, bytes] = {}
        token_of: dict[bytes, int] = {}
        for text, token in sorted(backend.get_vocab().items(), key=lambda item: item[1]):
            if token in chat.special_tokens:
                continue
            value = _bytes_of(text, alphabet if is_bytes else None)
            if value:
                bytes_of[token] = value
                token_of.setdefault(value, token)
        return cls(bytes_of, token_of)

    def prepare(self) -> None:
        """Compute what `beginnings` needs, which takes tenths of a second the first time."""
        _ = self._begun

    def written(self, tokens: Sequence[int]) -> bytes:
        """Return what the tokens stand for together."""
        return b"".join(self.bytes_of.get(token, b"") for token in tokens)

    def beginnings(self, texts: Iterable[bytes]) -> set[int]:
        """Return all tokens with which one of the texts begins."""
        tokens: set[int] = set()
        for text in texts:
            for length in range(1, min(len(text), LONGEST_TOKEN) + 1):
                beginning = text[:length]
                token = self.token_of.get(beginning)
                if token is not None:
                    tokens.add(token)
                if beginning not in self._begun:
                    break
        return tokens

    @cached_property
    def _begun(self) -> frozenset[bytes]:
        """What longer tokens begin with: no more need be looked up of a text that no token begins like."""
        return frozenset(token[:length] for token in self.token_of for length in range(1, len(token)))


def _bytes_of(text: str, alphabet: Mapping[str, int] | None) -> bytes:
    """The bytes of a token; none if it has characters that the tokenizer does not use for bytes."""
    if alphabet is not None:
        values = [alphabet.get(character) for character in text]
        return bytes(value for value in values if value is not None) if None not in values else b""
    if match := BYTE.fullmatch(text):
        return bytes([int(match[1], 16)])
    return text.replace(SPACE, " ").encode(errors="replace")


def _byte_alphabet() -> dict[str, int]:
    """The character for each byte in GPT-2's vocabulary: itself if it is visible, else one after 255."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [value for value in range(256) if value not in seen]
    return {chr(value): value for value in seen} | {chr(256 + index): value for index, value in enumerate(hidden)}
