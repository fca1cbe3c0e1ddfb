"""The decoder of Whisper in the form in which `Decoding` asks a language model.

Keys and values of the window are computed once, when its prompt is read, with the adapter of its row. They lie in
one batch for all lines, which is put together anew only when lines join or leave.
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
        self._module, self._never, self._not_first = module, never, not_first
        self._lines: list[Line] = []
        self._layers: list[tuple[Tensor, Tensor]] = []

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
        are_new = not lines[0].keys
        cross, states = DynamicCache(), None
        if are_new:
            states = torch.stack([line.window.hearing.states for line in lines if line.window.hearing is not None])
        else:
            for index, (keys, values) in enumerate(self._keys(lines)):
                cross.update(keys, values, index)
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
        banned = self._never | self._not_first if are_new else self._never
        logits = self._module.proj_out(hidden[:, -logits_to_keep:]).masked_fill(banned, float("-inf"))
        if are_new:
            self._share(lines, [(layer.keys, layer.values) for layer in cross.layers])
        return SimpleNamespace(logits=logits)

    def _keys(self, lines: Sequence[Line]) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each layer, of all lines."""
        if list(lines) != self._lines:
            layers = zip(*(line.keys for line in lines), strict=True)
            self._share(
                lines,
                [
                    (torch.cat([keys for keys, _ in of_lines]), torch.cat([values for _, values in of_lines]))
                    for of_lines in layers
                ],
            )
        return self._layers

    def _share(self, lines: Sequence[Line], layers: list[tuple[Tensor, Tensor]]) -> None:
        """Keep the batch, and let the lines refer to their parts of it, so that no other batch stays in memory."""
        self._lines, self._layers = list(lines), layers
        for index, line in enumerate(lines):
            line.keys = [(keys[index : index + 1], values[index : index + 1]) for keys, values in layers]
