"""A question as the tokens of a dialogue, by the model's own chat template.

    system: the instruction        user: the texts of the task        assistant: what the model writes

Only the template can write the special tokens that begin and end a turn. Instruction and texts are tokenized
without them: a text that contains "<|im_end|>" is these ten characters, and stays in its turn.
"""

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tokenizers import Tokenizer

from lorabel.text_contracts import TextInput

# What stands in the template for instruction and texts: private characters of Unicode, which no template uses.
INSTRUCTION, TEXTS = "\ue0f1\ue0f2", "\ue0f3\ue0f4"
# A natural text has fewer characters per token, so what comes after so many is cut off before it is tokenized.
CHARACTERS_PER_TOKEN = 16
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Prompt:
    """The tokens of a question.

    Args:
        tokens: all turns up to where the model writes.
        left_out: how many tokens of the texts were cut off, at least.
    """

    tokens: tuple[int, ...]
    left_out: int


@dataclass(frozen=True)
class ChatTokenizer:
    """Makes prompts, and reads and writes answers. Thread-safe.

    Attributes:
        tokenizer: of transformers, with a chat template.
        template_tokens: tokenizes what the template writes.
        data_tokens: tokenizes all other texts; it knows no special tokens.
        special_tokens: all tokens with a meaning beside their text.
    """

    tokenizer: Any
    template_tokens: Tokenizer
    data_tokens: Tokenizer
    special_tokens: frozenset[int]

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        """Take a tokenizer of transformers.

        Raises:
            ValueError: it is slow, or it has no chat template.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("its tokenizer is slow")
        if not tokenizer.chat_template:
            raise ValueError("it has no chat template; a model that follows instructions is needed")
        template_tokens = copy.deepcopy(tokenizer.backend_tokenizer)
        template_tokens.no_padding()
        template_tokens.no_truncation()
        settings = json.loads(template_tokens.to_str())
        special = frozenset(token["id"] for token in settings["added_tokens"])
        data_tokens = Tokenizer.from_str(json.dumps({**settings, "added_tokens": []}))
        return cls(tokenizer, template_tokens, data_tokens, special)

    def prompt(self, question: TextInput, texts: Sequence[str], max_tokens: int) -> Prompt:
        """Return the prompt of a question.

        Args:
            texts: what the contents say.
            max_tokens: of the prompt. The texts lose what is too long at the end that the question names; the
                turns stay whole.

        Raises:
            ValueError: not even the instruction fits.
        """
        instruction = self._encode(question.instruction)
        pieces = [
            instruction if piece == INSTRUCTION else None if piece == TEXTS else self._encode_template(piece)
            for piece in re.split(f"({INSTRUCTION}|{TEXTS})", self._render())
        ]
        room = max_tokens - sum(len(piece) for piece in pieces if piece is not None)
        if room <= 0:
            raise ValueError(f"the instruction has {len(instruction)} tokens")
        joined, characters = "\n\n".join(texts), room * CHARACTERS_PER_TOKEN
        text = self._encode(joined[-characters:] if question.is_end_kept else joined[:characters])
        kept = text[-room:] if question.is_end_kept else text[:room]
        tokens = [token for piece in pieces for token in (kept if piece is None else piece)]
        skipped = max(0, len(joined) - characters) // CHARACTERS_PER_TOKEN
        return Prompt(tuple(tokens), len(text) - len(kept) + skipped)

    def answer(self, text: str) -> list[int]:
        """Return the tokens of an answer, without its end."""
        return self._encode(text)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of the tokens that a model has written, without control characters."""
        ordinary = [token for token in tokens if token not in self.special_tokens]
        text: str = self.tokenizer.decode(ordinary, clean_up_tokenization_spaces=False)
        return CONTROL_CHARACTERS.sub("", text).strip()

    def _encode(self, text: str) -> list[int]:
        """The tokens of a text, none of which is special. Half characters (lone surrogates) become "?"."""
        ids = self.data_tokens.encode(text.encode(errors="replace").decode(), add_special_tokens=False).ids
        return [token for token in ids if token not in self.special_tokens]

    def _encode_template(self, piece: str) -> list[int]:
        ids: list[int] = self.template_tokens.encode(piece, add_special_tokens=False).ids
        return ids

    def _render(self) -> str:
        """The dialogue with INSTRUCTION and TEXTS in it. Some models know no system turn (Gemma 2)."""
        try:
            turns = [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": TEXTS}]
            return self._apply(turns)
        except Exception as error:
            if type(error).__name__ != "TemplateError":
                raise
        return self._apply([{"role": "user", "content": f"{INSTRUCTION}\n\n{TEXTS}"}])

    def _apply(self, turns: list[dict[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return text
