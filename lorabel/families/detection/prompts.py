"""Label texts as prompts of Grounding DINO: `[CLS] red circle . blue thing . [SEP]`.

A dot ends a phrase: the tokens of a phrase see each other only, and count their places from its beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """Texts of some labels in the tokens of a model.

    Args:
        tokens: with the tokens at both ends, and one after each phrase.
        spans: for each label that is in the prompt, first token and end of each of its texts.
    """

    tokens: tuple[int, ...]
    spans: dict[int, tuple[tuple[int, int], ...]]


class PromptWriter:
    """Writes prompts.

    Args:
        tokenizer: of transformers.
        special_tokens: those that the model takes for the ends of phrases: first, last, dot, question mark.
        max_tokens: in a prompt.
    """

    def __init__(self, tokenizer: Any, special_tokens: Sequence[int], max_tokens: int) -> None:
        self._tokenizer, self._special_tokens = tokenizer, tuple(special_tokens)
        self._room = max_tokens - 2

    def write(self, labels: Sequence[Sequence[str]]) -> list[Prompt]:
        """Return as few prompts as have room for all labels, in their order.

        The texts of a label are in one prompt, cut if they are too long for it. Texts that are the same to the
        model are there once.

        Args:
            labels: for each label its texts.
        """
        prompts: list[dict[int, list[tuple[int, ...]]]] = [{}]
        used: dict[tuple[int, ...], None] = {}
        for label, texts in enumerate(labels):
            phrases = self._cut([self._phrase(text) for text in texts])
            new = [phrase for phrase in dict.fromkeys(phrases) if phrase not in used]
            if prompts[-1] and _length([*used, *new]) > self._room:
                prompts.append({})
                used, new = {}, list(dict.fromkeys(phrases))
            used.update(dict.fromkeys(new))
            prompts[-1][label] = phrases
        return [self._prompt(of_labels) for of_labels in prompts]

    def _phrase(self, text: str) -> tuple[int, ...]:
        """The tokens of a text, without those that would end the phrase, as in `v1.2` and `[SEP]`."""
        tokens = self._tokenizer(text.strip().lower(), add_special_tokens=False)["input_ids"]
        kept = tuple(token for token in tokens if token not in self._special_tokens)
        return kept or (self._tokenizer.unk_token_id,)

    def _cut(self, phrases: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The phrases of a label, shortened until they have room in one prompt."""
        phrases = phrases[: self._room // 2]
        if _length(phrases) <= self._room:
            return phrases
        most = self._room // len(phrases) - 1
        return [phrase[:most] for phrase in phrases]

    def _prompt(self, of_labels: dict[int, list[tuple[int, ...]]]) -> Prompt:
        first, last, dot = self._special_tokens[:3]
        tokens, starts = [first], {}
        for phrase in (phrase for phrases in of_labels.values() for phrase in phrases):
            if phrase not in starts:
                starts[phrase] = len(tokens)
                tokens += [*phrase, dot]
        spans = {
            label: tuple((starts[phrase], starts[phrase] + len(phrase)) for phrase in phrases)
            for label, phrases in of_labels.items()
        }
        return Prompt((*tokens, last), spans)


def _length(phrases: Sequence[tuple[int, ...]]) -> int:
    """Tokens of phrases with what ends each."""
    return sum(len(phrase) + 1 for phrase in phrases)
