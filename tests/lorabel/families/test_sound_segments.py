"""Segments of sounds, found by a tiny CLAP of random weights: against transformers, and on drawn sounds."""

import io
import wave
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor, ClapModel

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.errors import UnreadableError
from lorabel.evaluation.segment_metrics import segment_metrics
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.fit_segments import AnnotatedRecording, fit_segments
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.encoders.segmenting import PreparedRecording
from lorabel.families.segments.windows import window_shares
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.time_contracts import STEP_S, SegmentScores, SegmentsInput, SegmentTarget
from tests import whisper_tiny
from tests.audio_files import RATE_HZ, Samples, chirp, encoded, noise, tone
from tests.sound_scenes import NAMES, drawn_sound
from tests.spoken_scenes import scene

pytestmark = pytest.mark.slow

QUESTION = SegmentsInput(
    contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="x")),), labels=tuple((name,) for name in NAMES)
)
LEARNED, UNSEEN = range(8), range(100, 112)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return AudioTextEncoder.tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def family(source: str) -> AudioTextEncoder:
    return load(source)


@pytest.fixture(scope="module")
def examples(family: AudioTextEncoder) -> list[Example]:
    """The sounds of LEARNED as annotators mark them."""
    drawn = [drawn_sound(number) for number in LEARNED]
    return [
        Example.of(QUESTION, features_of(family, sound), SegmentTarget(tuple(marked))) for sound, marked in drawn
    ]


@pytest.fixture(scope="module")
def head(family: AudioTextEncoder, examples: list[Example]) -> LinearHead:
    fitted = fit_head(examples, family.space)
    assert fitted is not None
    return fitted


def load(source: str, **settings: Any) -> AudioTextEncoder:
    return AudioTextEncoder.load(source, torch.device("cpu"), torch.float32, Settings(**settings))


def prepare(family: AudioTextEncoder, sound: Samples) -> Any:
    return family.prepare(QUESTION, lambda _: encoded(sound, "pcm_f32le"))


def features_of(family: AudioTextEncoder, sound: Samples) -> Any:
    asked = family.for_features(prepare(family, sound), None)
    return family.predict([asked], [None], NO_BATCH_ADAPTERS, FeatureCache({}))[0]


def answers(
    family: AudioTextEncoder, sounds: Sequence[Samples], head: LinearHead | None = None
) -> Sequence[SegmentScores]:
    inputs = [family.with_head(prepare(family, sound), head) for sound in sounds]
    return family.predict(inputs, [None] * len(inputs), NO_BATCH_ADAPTERS, FeatureCache({}))  # type: ignore[return-value]


def figures_of(outputs: Sequence[SegmentScores]) -> dict[str, Any]:
    """Of the answers about the sounds of UNSEEN."""
    predicted = [[(found.start_s, found.end_s, found.label) for found in output.segments] for output in outputs]
    return segment_metrics([drawn_sound(number)[1] for number in UNSEEN], predicted, NAMES).values


def test_windows_have_the_features_that_transformers_computes_for_the_second_around_them(
    family: AudioTextEncoder, source: str
) -> None:
    """They differ by the edges of spectra only, which see the sound around the window."""
    sound = chirp(200, 6000, 4.0)
    windows = Example.of(QUESTION, features_of(family, sound), SegmentTarget(())).features
    assert len(windows) == 17
    folder = source.removeprefix("local-dir:")
    extractor, model = ClapFeatureExtractor.from_pretrained(folder), ClapModel.from_pretrained(folder).eval()
    middles = [round(number * STEP_S * RATE_HZ) for number in range(2, 15)]
    parts = [sound[middle - RATE_HZ // 2 : middle + RATE_HZ // 2] for middle in middles]
    inputs = extractor(parts, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        states = model.get_audio_features(inputs["input_features"].float(), inputs["is_longer"]).pooler_output
    expected = torch.nn.functional.normalize(states, dim=-1).numpy()
    cosines = windows @ expected.T
    assert (cosines[2:15].argmax(1) == np.arange(13)).all()
    assert np.diag(cosines[2:15]).min() > 0.98


def test_sounds_of_two_lengths_are_learned_from_together_as_each_alone(family: AudioTextEncoder) -> None:
    inputs = [prepare(family, noise(number, length_s)) for number, length_s in ((0, 1.0), (1, 1.6), (2, 1.0))]
    targets = [SegmentTarget(((0.0, 0.6, label),)) for label in range(3)]
    alone = [family.loss([prepared], [target]) for prepared, target in zip(inputs, targets, strict=True)]
    torch.testing.assert_close(family.loss(inputs, targets), torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_where_sounds_say_nothing_about_a_label_its_zero_shot_logit_keeps_the_weight_of_its_prior() -> None:
    """1 in one regression, and 0 in the other."""
    truth = window_shares(SegmentTarget(((0.0, 0.6, 0),)), 5, 1, STEP_S)
    silent = np.zeros((5, 1), np.float32)
    features = np.zeros((5, 4), np.float32)
    fitted = fit_segments([AnnotatedRecording(features, silent, truth, group) for group in "ab"])
    assert fitted is not None and fitted.zero_shot_weight.tolist() == pytest.approx([0.5])


def test_before_training_a_label_is_found_where_its_text_is_nearest(family: AudioTextEncoder) -> None:
    """The logit of a label is above 0 where it is nearer than every neutral text."""
    features = features_of(family, drawn_sound(0)[0])
    logits = np.array(features.logits).reshape(-1, len(NAMES))
    (output,) = answers(family, [drawn_sound(0)[0]])
    covered = np.zeros_like(logits, bool)
    for found in output.segments:
        moments = STEP_S * np.arange(len(logits))
        covered[:, found.label] |= (found.start_s <= moments) & (moments <= found.end_s)
    assert (covered == (logits > 0)).all() and covered.any() and not covered.all()


def test_a_head_finds_in_unseen_sounds_what_annotators_marked_in_eight_others(
    family: AudioTextEncoder, head: LinearHead
) -> None:
    sounds = [drawn_sound(number)[0] for number in UNSEEN]
    before, after = figures_of(answers(family, sounds)), figures_of(answers(family, sounds, head))
    assert after["f1"] > max(0.7, before["f1"] + 0.3), (before, after)
    assert after["boundary_error_ms"] < 150, "windows are 1000 ms long, and 250 ms apart"


def test_labels_that_are_heard_together_are_both_found(family: AudioTextEncoder, head: LinearHead) -> None:
    sound = 0.001 * noise(0, 5.0)
    sound[RATE_HZ : 4 * RATE_HZ] += tone(3000, 3.0)
    sound[2 * RATE_HZ : 3 * RATE_HZ] += 0.5 * noise(1, 1.0)
    (output,) = answers(family, [sound], head)
    hiss = [found for found in output.segments if NAMES[found.label] == "hiss"]
    assert len(hiss) == 1 and abs(hiss[0].start_s - 2.0) < 0.3 and abs(hiss[0].end_s - 3.0) < 0.3
    assert any(
        NAMES[found.label] != "hiss" and found.start_s < hiss[0].start_s < found.end_s for found in output.segments
    )


def test_the_order_of_the_annotations_changes_no_bit(
    family: AudioTextEncoder, examples: list[Example], head: LinearHead
) -> None:
    again = fit_head(examples[::-1], family.space)
    assert again is not None and again.to_bytes() == head.to_bytes()


def test_a_head_needs_two_sounds_and_a_segment(family: AudioTextEncoder, examples: list[Example]) -> None:
    assert fit_head(examples[:1], family.space) is None
    silent = [Example(QUESTION, one.features, one.logits, SegmentTarget(())) for one in examples[:3]]
    assert fit_head(silent, family.space) is None


def test_a_label_that_nobody_has_used_keeps_its_answer_before_training(
    family: AudioTextEncoder, examples: list[Example]
) -> None:
    without_hiss = [
        Example(
            QUESTION,
            one.features,
            one.logits,
            SegmentTarget(tuple(segment for segment in one.target.segments if segment[2] != 2)),
        )
        for one in examples
    ]
    fitted = fit_head(without_hiss, family.space)
    sound = drawn_sound(100)[0]
    before, after = answers(family, [sound])[0], answers(family, [sound], fitted)[0]
    hisses = [
        [(found.start_s, found.end_s) for found in output.segments if found.label == 2]
        for output in (before, after)
    ]
    assert hisses[0]
    np.testing.assert_allclose(hisses[0], hisses[1], atol=1e-4)


def test_a_sound_is_recalled_without_its_file(family: AudioTextEncoder, head: LinearHead) -> None:
    sound, cache = drawn_sound(3)[0], FeatureCache({FEATURES: 10**7, DECODED: 10**7, TEXTS: 10**7})
    file = encoded(sound, "pcm_f32le")

    def recalled() -> Any:
        return family.recall(QUESTION, lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)

    assert recalled() is None
    (expected,) = family.predict([prepare(family, sound)], [None], NO_BATCH_ADAPTERS, cache)
    assert family.answer(recalled(), None, NO_BATCH_ADAPTERS, cache) == expected
    with_head = family.answer(family.with_head(recalled(), head), None, NO_BATCH_ADAPTERS, cache)
    assert with_head == answers(family, [sound], head)[0] != expected
    assert cache.figures()[DECODED]["bytes"] == 0, "windows share their sound, which is not kept"


def test_a_long_sound_is_searched_from_its_beginning_and_its_length_is_known(
    source: str, head: LinearHead
) -> None:
    sound = tone(300, 5.0)
    (output,) = answers(load(source, segments_max_s=2.0), [sound], head)
    assert output.length_s == pytest.approx(5.0, abs=0.01)
    assert output.segments and max(found.end_s for found in output.segments) <= 2.0


@pytest.mark.parametrize("samples", [1, 100, 4000])
def test_a_very_short_sound_is_answered(family: AudioTextEncoder, head: LinearHead, samples: int) -> None:
    (output,) = answers(family, [tone(300, 1.0)[:samples]], head)
    assert output.length_s == pytest.approx(samples / RATE_HZ)
    assert all(0 <= found.start_s < found.end_s <= output.length_s for found in output.segments)


def test_a_sound_without_samples_or_a_broken_one_has_a_reason(family: AudioTextEncoder) -> None:
    for file in (_wave_without_samples(), b"RIFF no sound", b""):
        with pytest.raises(UnreadableError) as error:
            family.prepare(QUESTION, lambda _, file=file: file)
        assert error.value.is_permanent and str(error.value)


def _wave_without_samples() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(RATE_HZ)
    return file.getvalue()


def test_windows_of_a_sound_share_its_spectrogram(family: AudioTextEncoder) -> None:
    prepared = prepare(family, drawn_sound(0)[0])
    assert isinstance(prepared, PreparedRecording)
    assert len({content.data.untyped_storage().data_ptr() for content in prepared.contents}) == 1


def test_what_is_said_is_found_in_a_sound_and_remembered_with_its_windows(family: AudioTextEncoder) -> None:
    file, spans, length_s = scene(whisper_tiny.SENTENCES)
    question = QUESTION.model_copy(update={"is_of_speech": True})
    cache = FeatureCache({FEATURES: 10**6, TEXTS: 10**6, DECODED: 10**6})
    (answer,) = family.predict([family.prepare(question, lambda _: file)], [None], NO_BATCH_ADAPTERS, cache)
    assert isinstance(answer, SegmentScores) and answer.length_s == pytest.approx(length_s)
    found = np.array([(segment.start_s, segment.end_s) for segment in answer.segments])
    assert found == pytest.approx(np.array(spans), abs=0.25)
    recalled = family.recall(question, lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)
    assert recalled is not None
    assert family.answer(recalled, None, NO_BATCH_ADAPTERS, cache) == answer
    # The same windows without the parts that are spoken: as always.
    plain = family.recall(QUESTION, lambda _: digest(file), None, NO_BATCH_ADAPTERS, cache)
    assert plain is not None and plain.question.spoken is None


@pytest.mark.parametrize("sound", [np.zeros(RATE_HZ, np.float32), noise(1, 2.0), tone(300, 2.0)])
def test_nobody_speaks_in_silence_noise_and_tones(family: AudioTextEncoder, sound: Samples) -> None:
    question = QUESTION.model_copy(update={"is_of_speech": True})
    prepared = family.prepare(question, lambda _: encoded(sound, "pcm_f32le"))
    (answer,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(answer, SegmentScores) and answer.segments == () and answer.expected_overlap == 1.0
