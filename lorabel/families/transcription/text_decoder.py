"""The decoder of Whisper in the form in which `Decoding` asks a language model.

Keys and values of a window are computed once for a row without an adapter, when the window is heard. For a row
with an adapter they are computed when its prompt is read. All lines have them in one batch, which is put together
anew only when lines join or leave, and is not copied in the steps between.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from lorabel.families.transcription.heard_sound import Line


def window_inputs(lines: Sequence[Line], mask: Tensor, first: int) -> Mapping[str, Any]:
    """What the decoder reads beside tokens and mask; see `Decoder.inputs`."""
    return {"lines": lines, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, first:]}


class TextDecoder:
    """Computes the next tokens of lines.

    Args:
        module: `WhisperForConditionalGeneration`.
        never: (vocabulary,) bool: the tokens that are never written.
        not_first: (vocabulary,) bool: those that no text begins with.
    """

    def __init__(self, module: Any, never: Tensor, not_first: Tensor) -> None:
        self._module = module
        self._never = never.nonzero()[:, 0]
        self._never_first = (never | not_first).nonzero()[:, 0]
        self._lines: list[Line] = []
        self._cross = DynamicCache()

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        past_key_values: DynamicCache,
        use_cache: bool,
        lines: Sequence[Line],
        position_ids: Tensor,
        logits_to_keep: int,
    ) -> Any:
        """Read tokens. Returns `logits` (lines, 1, vocabulary) after the last one."""
        are_new = past_key_values.get_seq_length() == 0
        states = None
        if all(line.keys for line in lines):
            cross = self._of_batch(lines)
        else:
            cross = DynamicCache()
            states = torch.stack([line.window.hearing.states for line in lines if line.window.hearing is not None])
        decoder = self._module.model.decoder
        hidden = decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            # Where keys and values are known, this only says that there is a sound.
            encoder_hidden_states=input_ids.new_empty(0) if states is None else states,
            past_key_values=EncoderDecoderCache(past_key_values, cross),
            use_cache=use_cache,
        ).last_hidden_state
        logits = last_logits(self._module, hidden[:, -logits_to_keep:])
        logits.index_fill_(1, self._never_first if are_new else self._never, float("-inf"))
        if states is not None:
            self._share(lines, cross)
        return SimpleNamespace(logits=logits[:, None])

    def _of_batch(self, lines: Sequence[Line]) -> DynamicCache:
        """Keys and values of all lines, which are put together only if the lines are others than before."""
        if list(lines) != self._lines:
            cross = DynamicCache()
            for index, layers in enumerate(zip(*(line.keys for line in lines), strict=True)):
                cross.update(
                    torch.cat([keys for keys, _ in layers]), torch.cat([values for _, values in layers]), index
                )
            self._share(lines, cross)
        return self._cross

    def _share(self, lines: Sequence[Line], cross: DynamicCache) -> None:
        """Keep the batch, and let the lines refer to their parts of it, so that no other batch stays in memory."""
        self._lines, self._cross = list(lines), cross
        for index, line in enumerate(lines):
            of_line = slice(index, index + 1)
            line.keys = [(layer.keys[of_line], layer.values[of_line]) for layer in cross.layers]


def last_logits(module: Any, states: Tensor) -> Tensor:
    """Return the logits after the last token: (lines, vocabulary) float32.

    The vocabulary's weights are multiplied by the states of all lines, and not the other way round, which takes
    twice as long on a CPU in bfloat16.

    Args:
        states: (lines, tokens, width) of the decoder.
    """
    logits: Tensor = module.proj_out.weight @ states[:, -1].T
    return logits.T.contiguous().float()
