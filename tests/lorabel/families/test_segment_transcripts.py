"""The speech family asked about segments: each has the text that its part of the sound has alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.speech import Speech
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.text_contracts import (
    SegmentTextsTarget,
    SegmentTranscripts,
    SegmentTranscriptsInput,
    TextTarget,
    TranscriptInput,
)
from tests.audio_files import RATE_HZ, Samples, chirp, encoded, noise, tone

pytestmark = pytest.mark.slow

SOUND = (Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),)
# 2.5 s: a tiny model hears a second at once.
SAMPLES = np.concatenate([tone(300, 0.5), noise(1, 0.5), chirp(200, 3000, 1.5)])
SEGMENTS = ((0.0, 0.5), (0.4, 1.0), (1.0, 2.5), (2.25, 9.0), (7.0, 9.0))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Speech:
    torch.manual_seed(2)
    source = write_speech_model(tmp_path_factory.mktemp("model") / "base")
    return Speech.load(source, torch.device("cpu"), torch.float32, Settings())


def prepare(family: Speech, segments: Sequence[tuple[float, float]], samples: Samples = SAMPLES) -> Any:
    question = SegmentTranscriptsInput(contents=SOUND, segments=tuple(segments))
    return family.prepare(question, lambda _: encoded(samples, "pcm_f32le"))


def predict(family: Speech, prepared: Any, cache: FeatureCache | None = None) -> Any:
    (output,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, cache or FeatureCache({}))
    return output


def test_each_segment_has_the_text_of_its_part_of_the_sound(family: Speech) -> None:
    output = predict(family, prepare(family, SEGMENTS))
    assert isinstance(output, SegmentTranscripts)
    for (start, end), answer in list(zip(SEGMENTS, output.answers, strict=True))[:-1]:
        part = encoded(SAMPLES[round(start * RATE_HZ) : round(end * RATE_HZ)], "pcm_f32le")
        files = iter([part])
        alone = predict(
            family, family.prepare(TranscriptInput(contents=SOUND), lambda _, files=files: next(files))
        )
        assert answer.text == alone.text
        assert answer.probability == pytest.approx(alone.probability, abs=1e-4)
    assert (output.answers[-1].text, output.answers[-1].is_complete) == ("", False)


def test_what_is_remembered_depends_on_how_a_sound_was_cut(family: Speech) -> None:
    cache = FeatureCache({EMBEDDINGS: 10**8})
    key = digest(encoded(SAMPLES, "pcm_f32le"))
    parts = SEGMENTS[:2], SEGMENTS[1:]
    outputs = [predict(family, prepare(family, part), cache) for part in parts]
    for part, output in zip(parts, outputs, strict=True):
        question = SegmentTranscriptsInput(contents=SOUND, segments=part)
        recalled = family.recall(question, lambda _: key, None, NO_BATCH_ADAPTERS, cache)
        assert recalled is not None and predict(family, recalled, cache) == output
    whole = TranscriptInput(contents=SOUND)
    assert family.recall(whole, lambda _: key, None, NO_BATCH_ADAPTERS, cache) is None


def test_the_loss_of_segments_is_that_of_their_parts_by_the_length_of_the_texts(family: Speech) -> None:
    spans, texts = SEGMENTS[:2], ("yes", "no, never")
    whole = family.loss([prepare(family, spans)], [SegmentTextsTarget(spans, texts)])
    pairs = zip(spans, texts, strict=True)
    parts = [family.loss([prepare(family, (span,))], [TextTarget(text)]) for span, text in pairs]
    # Tokens are bytes; a space comes before a text, and an end after it.
    lengths = torch.tensor([len(text) + 2.0 for text in texts])
    torch.testing.assert_close(whole, ((torch.cat(parts) * lengths).sum() / lengths.sum())[None])


def test_a_step_learns_one_window_with_its_part_of_the_text(family: Speech) -> None:
    spans, texts = SEGMENTS[:3], ("a", "b", "c d e f")
    generator = torch.Generator().manual_seed(0)
    (prepared,) = family.precompute([prepare(family, spans)], [], generator)
    seen = set()
    for _ in range(40):
        (part,), (target,) = family.augment([prepared], [SegmentTextsTarget(spans, texts)], generator)
        assert len(part.windows) == 1
        seen.add((part.windows[0].key[1:], target.text))
        assert family.loss([part], [target]).isfinite().all()
    by_start = [text for _, text in sorted(seen)]
    assert by_start[:2] == ["a", "b"] and " ".join(filter(None, by_start[2:])) == "c d e f"


def test_segments_that_are_not_in_the_sound_have_a_reason(family: Speech) -> None:
    with pytest.raises(UnreadableError, match=r"none of 1 segments begins in the 2\.5 s") as caught:
        prepare(family, SEGMENTS[-1:])
    assert caught.value.is_permanent
    with pytest.raises(UnreadableError) as caught:
        family.prepare(SegmentTranscriptsInput(contents=SOUND, segments=SEGMENTS), lambda _: b"no sound")
    assert caught.value.is_permanent
