"""How long people wait while a long sound is transcribed: for pictures, and for transcripts of short sounds.

The long sound is of five minutes, again and again without a break, another part of the sentences each time, so
that nothing of it is remembered: as a person asks for it, then as a bulk run does. Pictures are /predict calls
with the demo's model, which computes on the same device in the same thread. Short sounds are one sentence each.
The unit of delays is the time in which two windows, as many as go together, are encoded. That was one step, for
whose end all others waited; now each layer is a step. It varies, so the median delay is divided by the median
time, and the worst by the longest one.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import torch

from benchmarks import servers
from benchmarks.costs import read_costs
from benchmarks.drawn_tasks import PROJECT, project_key
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, percentile
from benchmarks.subjects.latency import PREDICT, TIMEOUT_S, Stream
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.errors import LorabelError
from lorabel.families.speech import Speech
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.model_client import ModelClient
from lorabel.media.audio import Sound, decode_audio
from lorabel.problems.binding import bind
from lorabel.text_contracts import TranscriptInput
from tests import whisper_tiny
from tests.audio_files import RATE_HZ, encoded
from tests.e2e.courses import data_url
from tests.e2e.lorabel_processes import Lorabel

CONFIG = '<View><Audio name="audio" value="$audio"/><TextArea name="transcript" toName="audio"/></View>'
LONG_S, LONG_PROJECT, LONG_TIMEOUT_S = 300.0, PROJECT + 2, 120.0
# Seconds between the beginnings of two long sounds in all that is spoken, and of the first ones that are heard.
BETWEEN_S, BEGUN_S = 1.7, 1.0
PICTURES, SHORT_SOUNDS = "pictures", "transcripts of short sounds"
LONG_SOUNDS = {"a person's long sound": Priority.INTERACTIVE, "a long sound of a bulk run": Priority.BULK}
WINDOWS_TIME = "of the windows' time"
ONE_TIME = Goal("<=", 1.0)
Times = dict[str, list[float]]


def measure(plan: Plan, family: Speech, source: str) -> list[Row]:
    """Measure with the model of the family, which lies at `source`.

    Raises:
        RuntimeError: a sound got no answer.
    """
    sentences = [decode_audio(whisper_tiny.spoken(text), RATE_HZ, LONG_S) for text in whisper_tiny.SENTENCES]
    talk = np.concatenate([*sentences, np.zeros(RATE_HZ // 2, np.float32)])
    spoken = np.tile(talk, 2 + round(LONG_S * RATE_HZ / len(talk)))
    windows_ms, windows = _windows_ms(family, spoken)
    stream, numbers = Stream(), itertools.count()
    variables = {
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "MODEL_SPEECH": source,
        "FAMILIES": "dual_encoder,speech",
    }
    with servers.lorabel(plan, variables) as lorabel:

        def waits(seconds: float) -> Times:
            return {
                PICTURES: stream.probe(lorabel.url, seconds)[PREDICT],
                SHORT_SOUNDS: _short_sounds(lorabel.url, sentences[0], numbers, seconds),
            }

        waits(plan.warm_up_s)
        alone = waits(plan.seconds / 2)
        beside = {}
        for name, priority in LONG_SOUNDS.items():
            with _long_sounds(lorabel, spoken, priority):
                beside[name] = waits(plan.seconds)
    title = f"{windows} windows of a long sound, encoded"
    return [
        Row(title, percentile(windows_ms, 0.5), "ms", min(windows_ms), max(windows_ms)),
        *(_row(f"{kind}, alone", times) for kind, times in alone.items()),
        *(row for name, of_kinds in beside.items() for row in _delays(name, of_kinds, alone, windows_ms)),
    ]


def _delays(name: str, beside: Times, alone: Times, windows_ms: list[float]) -> Iterator[Row]:
    for kind, times in beside.items():
        yield _row(f"{kind}, beside {name}", times)
        for share, of_share in ((0.5, "p50"), (1.0, "worst")):
            delay_ms = percentile(times, share) - percentile(alone[kind], share)
            share_of_windows = delay_ms / percentile(windows_ms, share)
            yield Row(f"{kind}, delayed by {name}: {of_share}", share_of_windows, WINDOWS_TIME, goal=ONE_TIME)


def _row(name: str, times_ms: list[float]) -> Row:
    return Row(
        f"{name}: p50",
        percentile(times_ms, 0.5),
        "ms",
        min(times_ms),
        max(times_ms),
        note=f"{len(times_ms)} times",
    )


def _windows_ms(family: Speech, spoken: Sound) -> tuple[list[float], int]:
    """The milliseconds in which windows of a long sound are encoded that go together, and how many these are."""
    file = encoded(spoken[: round(LONG_S * RATE_HZ)])
    content = Content(modality=Modality.AUDIO, media=MediaRef(url="sound"))
    prepared = family.prepare(TranscriptInput(contents=(content,)), lambda _: file)
    times, count = [], family.most_heard
    with torch.inference_mode():
        for first in range(0, len(prepared.windows) - count + 1, count):
            began = time.perf_counter()
            family.hear(prepared.windows[first : first + count], are_written=True)
            times.append(1000 * (time.perf_counter() - began))
    return times[1:], count  # the first one warmed up


def _short_sounds(url: str, sentence: Sound, numbers: Iterator[int], seconds: float) -> list[float]:
    """Ask for transcripts for some seconds. Returns the milliseconds of each."""
    key = f"{PROJECT + 1}.{project_key().partition('.')[2]}"
    times, until = [], time.monotonic() + seconds
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as client:
        while time.monotonic() < until:
            pause = np.zeros(100 + next(numbers), np.float32)  # no sound comes twice
            file = encoded(np.concatenate([pause, sentence]))
            task = {"id": 1, "data": {"audio": data_url(file, "audio/wav")}}
            body = {"tasks": [task], "project": key, "label_config": CONFIG, "params": {}}
            began = time.monotonic()
            answer = client.post("/predict", json=body).raise_for_status().json()
            times.append(1000 * (time.monotonic() - began))
            if not answer["results"][0]["result"]:
                raise RuntimeError(f"a short sound got no transcript: {answer}")
    return times


@contextmanager
def _long_sounds(lorabel: Lorabel, spoken: Sound, priority: Priority) -> Iterator[None]:
    """Have long sounds transcribed during the block.

    Raises:
        RuntimeError: one got no answer.
    """
    (problem,) = bind(CONFIG).bindings
    client, stop, failed = ModelClient(lorabel.settings), threading.Event(), list[str]()

    def run() -> None:
        for number in itertools.count():
            start = round(number * BETWEEN_S * RATE_HZ) % (len(spoken) - round(LONG_S * RATE_HZ))
            file = encoded(spoken[start : start + round(LONG_S * RATE_HZ)])
            question = problem.model_input({"audio": data_url(file, "audio/wav")})
            row = PredictRow(kind=question.kind, input=question.model_dump())
            failed.extend(_errors(client, row, priority, stop.is_set))
            if failed or stop.is_set():
                return

    before_s = read_costs(lorabel).cpu_s["model_server"]
    thread = threading.Thread(target=run)
    thread.start()
    try:
        while read_costs(lorabel).cpu_s["model_server"] < before_s + BEGUN_S and not failed:
            time.sleep(0.1)
        yield
    finally:
        stop.set()
        thread.join()
        client.close()
    if failed:
        raise RuntimeError(f"the long sound got no answer: {failed[0]}")


def _errors(client: ModelClient, row: PredictRow, priority: Priority, is_over: Callable[[], bool]) -> list[str]:
    try:
        answers = client.predict([row], LONG_TIMEOUT_S, LONG_PROJECT, priority, is_over)
    except LorabelError as error:
        return [] if is_over() else [str(error)]
    return [answer.error.reason for answer in answers if answer.error is not None]
