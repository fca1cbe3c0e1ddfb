"""A question as the tokens of a dialogue, by the model's own chat template.

    system: the instruction        user: pictures and texts of the task        assistant: what the model writes

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
        processor: of transformers, with the chat template of a model that reads pictures; else None.
        template_tokens: tokenizes what the template writes.
        data_tokens: tokenizes all other texts; it knows no special tokens.
        special_tokens: all tokens with a meaning beside their text.
    """

    tokenizer: Any
    template_tokens: Tokenizer
    data_tokens: Tokenizer
    special_tokens: frozenset[int]
    processor: Any | None = None

    @classmethod
    def of(cls, tokenizer: Any, processor: Any | None = None) -> Self:
        """Take a tokenizer of transformers, and the processor to which it belongs, if the model reads pictures.

        Raises:
            ValueError: it is slow, or there is no chat template.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError("its tokenizer is slow")
        if not (processor or tokenizer).chat_template:
            raise ValueError("it has no chat template; a model that follows instructions is needed")
        template_tokens = copy.deepcopy(tokenizer.backend_tokenizer)
        template_tokens.no_padding()
        template_tokens.no_truncation()
        settings = json.loads(template_tokens.to_str())
        special = frozenset(token["id"] for token in settings["added_tokens"])
        data_tokens = Tokenizer.from_str(json.dumps({**settings, "added_tokens": []}))
        return cls(tokenizer, template_tokens, data_tokens, special, processor)

    def prompt(
        self, question: TextInput, texts: Sequence[str], max_tokens: int, pictures: Sequence[Sequence[int]] = ()
    ) -> Prompt:
        """Return the prompt of a question.

        Args:
            texts: what the contents say.
            pictures: the tokens that stand for each picture; they come before the texts, and stay whole.
            max_tokens: of the prompt. The texts lose what is too long at the end that the question names; the
                turns stay whole.

        Raises:
            ValueError: not even the instruction fits.
        """
        instruction, shown = self._encode(question.instruction), iter(pictures)
        pieces = [
            next(shown)
            if pictures and piece == self._picture
            else instruction
            if piece == INSTRUCTION
            else None
            if piece == TEXTS
            else self._encode_template(piece)
            for piece in self._split(self._render(len(pictures)))
        ]
        room = max_tokens - sum(len(piece) for piece in pieces if piece is not None)
        if room < 0 or (room == 0 and not pictures):
            counted = f"the instruction has {len(instruction)} tokens"
            raise ValueError(f"{counted}, the pictures have {sum(map(len, pictures))}" if pictures else counted)
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

    @property
    def _picture(self) -> str:
        """What the template writes for a picture."""
        return str(self.processor.image_token) if self.processor else TEXTS

    def _split(self, dialogue: str) -> list[str]:
        """The pieces of a dialogue: what the template writes, and what stands for everything else."""
        return re.split(f"({INSTRUCTION}|{TEXTS}|{re.escape(self._picture)})", dialogue)

    def _render(self, picture_count: int) -> str:
        """The dialogue with INSTRUCTION, pictures and TEXTS in it. Some models know no system turn (Gemma 2)."""
        shown = [None] * picture_count
        try:
            return self._apply([("system", [INSTRUCTION]), ("user", [*shown, TEXTS])])
        except Exception as error:
            if type(error).__name__ != "TemplateError":
                raise
        return self._apply([("user", [*shown, f"{INSTRUCTION}\n\n{TEXTS}"])])

    def _apply(self, turns: Sequence[tuple[str, Sequence[str | None]]]) -> str:
        """The dialogue of turns: the role and the parts of each, which are texts; None is a picture."""
        options = {"tokenize": False, "add_generation_prompt": True}
        if self.processor is None:
            plain = [{"role": role, "content": "".join(filter(None, parts))} for role, parts in turns]
            text: str = self.tokenizer.apply_chat_template(plain, **options)
            return text
        messages = [{"role": role, "content": [_part(part) for part in parts]} for role, parts in turns]
        text = self.processor.apply_chat_template(messages, **options)
        return text


def _part(text: str | None) -> dict[str, str]:
    return {"type": "image"} if text is None else {"type": "text", "text": text}
