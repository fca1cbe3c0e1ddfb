"""What is heard in parts is what transformers' encoder computes at once."""

from pathlib import Path

import pytest
import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.families.speech import Speech
from lorabel.families.transcription.heard_sound import Hearing, Window
from lorabel.families.transcription.hearing import hear, hear_part
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.settings import Settings
from lorabel.text_contracts import TranscriptInput
from tests.audio_files import encoded, noise

pytestmark = pytest.mark.slow

QUESTION = TranscriptInput(contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),))


def test_a_window_is_heard_layer_by_layer_as_by_the_encoder_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(2)
    source = write_speech_model(tmp_path / "base", is_multilingual=False)
    family = Speech.load(source, torch.device("cpu"), torch.float32, Settings())
    (window,) = family.prepare(QUESTION, lambda _: encoded(noise(1, 0.8))).windows
    assert window.mel is not None
    with torch.no_grad():
        states = family.module.model.encoder(window.mel[None]).last_hidden_state
        parts = [_part(window, family) for _ in family.module.model.encoder.layers]
    assert parts[:-1] == [None] * (len(parts) - 1)
    assert window.hearing is parts[-1] is not None
    torch.testing.assert_close(parts[-1].states, states[0])
    assert window.encoding is None and window.mel is None, "nothing that is not needed any longer is kept"


def test_a_window_is_heard_although_memory_was_short_after_the_last_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_speech_model(tmp_path / "base", is_multilingual=False)
    family = Speech.load(source, torch.device("cpu"), torch.float32, Settings())
    (window,) = family.prepare(QUESTION, lambda _: encoded(noise(1, 0.8))).windows

    def lacking(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("none left")

    with torch.no_grad():
        with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
            patch.setattr(family.module.model.decoder, "forward", lacking)
            while _part(window, family) is None:
                """The decoder is asked with the last part."""
        again = _part(window, family)
    (other,) = family.prepare(QUESTION, lambda _: encoded(noise(1, 0.8))).windows
    with torch.no_grad():
        hearing = hear(other, family.module, family.tokens, family.device, family.dtype, is_written=True)
    assert again is not None
    torch.testing.assert_close(again.states, hearing.states)


def _part(window: Window, family: Speech) -> Hearing | None:
    return hear_part(window, family.module, family.tokens, family.device, family.dtype, is_written=True)
