"""CLAP models: sounds and texts each become a vector, and the answer is the label with the nearest text.

CLAP (https://arxiv.org/abs/2211.06687) in the implementation of transformers. A model encodes sounds of the length
that it was trained with, in most models ten seconds. A longer sound is covered with windows of this length, and
their features are averaged.

Segments are found in shorter windows, see `lorabel.families.encoders.segmenting`. A shorter window is repeated
until it has the length that the model was trained with, as the feature extractor repeats short sounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    PreTrainedTokenizerFast,
)

from lorabel.contracts import Modality
from lorabel.errors import SettingsError
from lorabel.families.base import LOAD_DTYPE, transformers_name
from lorabel.families.encoders.pooling import pool_features
from lorabel.families.encoders.segmenting import SegmentingEncoder, WindowedRecording
from lorabel.families.lora_layers import trained_modalities
from lorabel.families.segments.voice_activity import RATE_HZ, VoiceActivity
from lorabel.families.segments.windows import count_windows
from lorabel.media.audio import decode_audio, decode_beginning, windows
from lorabel.settings import Settings
from lorabel.time_contracts import SpokenPart

# Length of the windows in which segments are found.
WINDOW_S = 1.0
# Longer speech without a pause is divided: speech models hear so much at once.
LONGEST_SPEECH_S = 30.0
# Prefix of the names of the audio tower's layers.
AUDIO_TOWER = "audio_"
# Most that `jitter` shifts a sound, as a share of its length, and how much louder or softer it gets.
MAX_SHIFT = 0.1
MAX_GAIN_DB = 3.0


@dataclass(frozen=True)
class AudioTextEncoder(SegmentingEncoder):
    """Audio and text towers of CLAP.

    `read` decodes sounds to mel spectrograms, (windows, channels, time, mel bands) float32 in decibels. There are
    several channels only for models that fuse the parts of a long sound; here, all their channels get the same
    window.

    Attributes:
        extractor: the feature extractor of transformers: samples -> mel spectrograms.
        tokenizer: for label texts and other texts.
    """

    name: ClassVar[str] = "audio_text_encoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.AUDIO, Modality.TEXT})
    default_source: ClassVar[str] = "hf-hub:laion/clap-htsat-unfused"
    window_modality: ClassVar[Modality] = Modality.AUDIO

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    extractor: Any
    tokenizer: Any
    settings: Settings

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            module = ClapModel.from_pretrained(name, dtype=LOAD_DTYPE)
            extractor = ClapFeatureExtractor.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except Exception as error:
            raise SettingsError(
                f"MODEL_AUDIO_TEXT_ENCODER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name, or "
                "local-dir:folder as transformers saves a CLAP model, its feature extractor and its tokenizer"
            ) from error
        module.requires_grad_(False).eval().to(device=device, dtype=dtype)
        return cls(source, module, device, dtype, extractor, tokenizer, settings)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny CLAP for sounds of one second at 16 kHz; see `Family.tiny`."""
        characters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *characters])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=64
        ).save_pretrained(folder)
        ClapFeatureExtractor(
            feature_size=16,
            sampling_rate=16_000,
            hop_length=160,
            max_length_s=1,
            fft_window_size=512,
            frequency_max=8_000,
            truncation="rand_trunc",
        ).save_pretrained(folder)
        text_config = ClapTextConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=80,
        )
        audio_config = ClapAudioConfig(
            num_mel_bins=16,
            spec_size=64,
            window_size=4,
            patch_embeds_hidden_size=16,
            hidden_size=32,
            depths=(2, 2),
            num_attention_heads=(2, 4),
        )
        config = ClapConfig(
            text_config=text_config.to_dict(), audio_config=audio_config.to_dict(), projection_dim=32
        )
        ClapModel(config).save_pretrained(folder)
        return f"local-dir:{folder}"

    def read(self, modality: Modality, file: bytes) -> Tensor:
        """Decode a sound to mel spectrograms of its windows; see `ContentEncoder.read`."""
        rate_hz = self.extractor.sampling_rate
        sound = decode_audio(file, rate_hz, self.settings.audio_max_s)
        parts = windows(sound, self.extractor.nb_max_samples)
        mel: Tensor = self.extractor(parts, sampling_rate=rate_hz, return_tensors="pt")["input_features"]
        return mel.float()

    def read_windows(self, file: bytes, step_s: float) -> WindowedRecording:
        """Decode a sound to a mel spectrogram, and cut this into windows; see `SegmentingEncoder.read_windows`.

        The sound is mirrored at both ends for the windows around its first and last moment.
        """
        rate_hz, hop = self.extractor.sampling_rate, self.extractor.hop_length
        sound, length_s = decode_beginning(file, rate_hz, self.settings.segments_max_s)
        read_s = len(sound) / rate_hz
        padded = np.pad(sound, round(WINDOW_S / 2 * rate_hz), mode="symmetric")
        mel = self.extractor(padded, max_length=len(padded), sampling_rate=rate_hz, return_tensors="pt")
        frames = mel["input_features"].float()
        size = min(round(WINDOW_S * rate_hz / hop), self._mel_frames)
        starts = [round(number * step_s * rate_hz / hop) for number in range(count_windows(read_s, step_s))]
        return WindowedRecording([frames[:, :, start : start + size] for start in starts], read_s, length_s)

    def find_speech(self, file: bytes) -> Sequence[SpokenPart]:
        """Return where somebody speaks, as far as the sound is read; see `SegmentingEncoder.find_speech`."""
        sound, _ = decode_beginning(file, RATE_HZ, self.settings.segments_max_s)
        spans = self._voice.spans(sound, longest_s=LONGEST_SPEECH_S)
        return [(span.start_s, span.end_s, span.probability) for span in spans]

    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        """Compute the features of sounds or texts; see `ContentEncoder.encode`."""
        if modality == Modality.TEXT:
            tokens = self.tokenizer(list(data), padding=True, truncation=True, return_tensors="pt").to(self.device)
            states = self.module.text_model(tokens["input_ids"], tokens["attention_mask"])  # type: ignore[operator]
            features = self.module.text_projection(states.pooler_output)  # type: ignore[operator]
            return functional.normalize(features.float(), dim=-1)
        mel = torch.cat([self._filled(mel) for mel in data]).to(self.device, self.dtype)
        is_longer = torch.zeros(len(mel), 1, dtype=torch.bool, device=self.device)
        states = self.module.audio_model(mel, is_longer)  # type: ignore[operator]
        features = self.module.audio_projection(states.pooler_output)  # type: ignore[operator]
        return pool_features(
            functional.normalize(features.float(), dim=-1), [len(mel_windows) for mel_windows in data], "mean"
        )

    def jitter(self, modality: Modality, data: Any, generator: torch.Generator) -> Any:
        """Shift a sound by up to 10% in time (cyclically), and change its loudness by up to 3 dB.

        Pitch and speed stay, since they may be the label.
        """
        if modality == Modality.TEXT:
            return data
        shift, gain = (2 * torch.rand(2, generator=generator) - 1).tolist()
        time = data.shape[2]
        return data.roll(round(shift * MAX_SHIFT * time), 2) + gain * MAX_GAIN_DB

    def emptied(self, modality: Modality, data: Any) -> Any:
        """Return an empty text, or silence as long as a sound; see `ExplainingEncoder.emptied`."""
        if modality == Modality.TEXT:
            return super().emptied(modality, data)
        return self._silence.expand(len(data), -1, -1, -1)

    def tower(self, modality: Modality) -> frozenset[str]:
        """Return the names of the text tower's or the audio tower's layers."""
        return self._text_layers if modality == Modality.TEXT else self._audio_layers

    def row_count(self, modality: Modality, data: Any) -> int:
        """Return the number of windows of a sound; 1 for a text."""
        return len(data) if modality == Modality.AUDIO else 1

    @property
    def trained_modalities(self) -> frozenset[Modality]:
        """All if LORA_TOWERS is `both`; else text only."""
        return trained_modalities(self.settings.lora_towers, self.modalities, by_default={Modality.TEXT})

    @cached_property
    def scale(self) -> float:
        """The learned scale of the model for sounds: the exponential of its `logit_scale_a`."""
        return float(self.module.logit_scale_a.detach().float().exp())  # type: ignore[operator]

    @property
    def _mel_frames(self) -> int:
        """Time of a spectrogram that the model encodes."""
        return int(1 + self.extractor.nb_max_samples // self.extractor.hop_length)

    def _filled(self, mel: Tensor) -> Tensor:
        """Repeat a spectrogram until it is as long as the model reads."""
        repeats = -(-self._mel_frames // mel.shape[2])
        return mel if repeats < 2 else mel.repeat(1, 1, repeats, 1)[:, :, : self._mel_frames]

    @cached_property
    def _silence(self) -> Tensor:
        """(1, channels, time, mel bands): a window of silence. Zeros of a spectrogram are a loud noise."""
        samples = np.zeros(self.extractor.nb_max_samples, np.float32)
        mel: Tensor = self.extractor(samples, sampling_rate=self.extractor.sampling_rate, return_tensors="pt")[
            "input_features"
        ]
        return mel.float()

    @cached_property
    def _voice(self) -> VoiceActivity:
        return VoiceActivity.load()

    @cached_property
    def _audio_layers(self) -> frozenset[str]:
        return frozenset(name for name in self.tower_layers() if name.startswith(AUDIO_TOWER))

    @cached_property
    def _text_layers(self) -> frozenset[str]:
        return frozenset(self.tower_layers()) - self._audio_layers
