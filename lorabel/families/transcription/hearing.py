"""What a Whisper model hears in a window before it writes."""

from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache

from lorabel.families.transcription.heard_sound import Hearing, Window
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
    if window.hearing is not None:
        return window.hearing
    if window.mel is None:
        raise RuntimeError("a window has neither a spectrogram nor states")
    states = module.model.encoder(window.mel[None].to(device, dtype)).last_hidden_state
    start = torch.tensor([[tokens.start]], device=device)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    decoded = module.model.decoder(start, encoder_hidden_states=states, past_key_values=cache, use_cache=True)
    (logits,) = last_logits(module, decoded.last_hidden_state)
    if is_written:
        window.keys = [(layer.keys, layer.values) for layer in cache.cross_attention_cache.layers]
    hearing = Hearing(states[0], tokens.prompt(logits), tokens.no_speech_probability(logits))
    window.keep(hearing)
    return hearing
