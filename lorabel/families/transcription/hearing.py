"""What a Whisper model hears in a window before it writes: in parts, so that others wait for a part at most."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu
from transformers import DynamicCache, EncoderDecoderCache

from lorabel.families.transcription.heard_sound import Encoding, Hearing, Window
from lorabel.families.transcription.speech_tokens import SpeechTokens
from lorabel.families.transcription.text_decoder import last_logits


def hear(
    window: Window,
    module: Any,
    tokens: SpeechTokens,
    device: torch.device,
    dtype: torch.dtype,
    *,
    is_written: bool,
) -> Hearing:
    """Encode a window, and find out its language, and whether anybody speaks, unless that is known.

    Args:
        module: `WhisperForConditionalGeneration`, which computes without an adapter now.
        is_written: whether the window is written next, so that keys and values are kept for it.
    """
    while (hearing := hear_part(window, module, tokens, device, dtype, is_written=is_written)) is None:
        """Each part lies with the window."""
    return hearing


def hear_part(
    window: Window,
    module: Any,
    tokens: SpeechTokens,
    device: torch.device,
    dtype: torch.dtype,
    *,
    is_written: bool,
) -> Hearing | None:
    """Do the next part of what `hear` does: a layer of the encoder, and with the last one what follows.

    Returns:
        None if another part is left.
    """
    if window.hearing is not None:
        return window.hearing
    encoder = module.model.encoder
    encoding = window.encoding or Encoding(_embedded(window, encoder, device, dtype))
    # All layers are done already where memory was short after the last.
    if encoding.layers < len(encoder.layers):
        states = encoder.layers[encoding.layers](encoding.states, None)
        encoding = window.encoding = Encoding(states, encoding.layers + 1)
    if encoding.layers < len(encoder.layers):
        return None
    states = encoder.layer_norm(encoding.states)
    start = torch.tensor([[tokens.start]], device=device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    decoded = module.model.decoder(start, encoder_hidden_states=states, past_key_values=cache, use_cache=True)
    (logits,) = last_logits(module, decoded.last_hidden_state)
    if is_written:
        window.keys = [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]
    hearing = Hearing(states[0], tokens.prompt(logits), tokens.no_speech_probability(logits))
    window.keep(hearing)
    return hearing


def _embedded(window: Window, encoder: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What the first layer gets, as `WhisperEncoder.forward` of transformers computes it."""
    if window.mel is None:
        raise RuntimeError("a window has neither a spectrogram nor states")
    embedded: Tensor = gelu(encoder.conv2(gelu(encoder.conv1(window.mel[None].to(device, dtype)))))
    weights: Tensor = encoder.embed_positions.weight
    return embedded.transpose(1, 2) + weights
