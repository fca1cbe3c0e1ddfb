"""How long people wait while a long sound is transcribed: for clicks, and for transcripts of short sounds.

The long sound is of five minutes, with the priority of bulk runs, again and again without a break: another part of
the sentences each time, so that nothing of it is remembered. A step is the longest one there is: a window of it is
encoded. Clicks are calls of `/predict` for one picture. Short sounds are one sentence with other pauses before it.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import numpy as np

from benchmarks import servers
from benchmarks.costs import read_costs
from benchmarks.drawn_tasks import PROJECT, project_key
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, percentile
from benchmarks.subjects.latency import PREDICT, TIMEOUT_S, Stream
from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo import MODEL_FOLDER
from lorabel.errors import LorabelError
from lorabel.families.base import NO_BATCH_ADAPTERS
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
LONG_S, LONG_PROJECT, LONG_TIMEOUT_S = 300.0, PROJECT + 2, 600.0
# Seconds between the beginnings of two long sounds in all that is spoken.
BETWEEN_S = 1.7
ONE_STEP = Goal("<=", 1.0)


def measure(plan: Plan, family: Speech, source: str) -> list[Row]:
    """Measure with the model of the family, which lies at `source`.

    Raises:
        RuntimeError: the long sound got no answer.
    """
    sentences = [decode_audio(whisper_tiny.spoken(text), RATE_HZ, LONG_S) for text in whisper_tiny.SENTENCES]
    said = np.concatenate([*sentences, np.zeros(RATE_HZ // 2, np.float32)])
    spoken = np.tile(said, 2 + round(LONG_S * RATE_HZ / len(said)))
    step_s = _encoding_s(family, spoken)
    stream, numbers = Stream(), itertools.count()
    variables = {
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "MODEL_SPEECH": source,
        "FAMILIES": "dual_encoder,speech",
    }
    with servers.lorabel(plan, variables) as lorabel:

        def waits() -> tuple[list[float], list[float]]:
            clicks = stream.probe(lorabel.url, 2 * plan.seconds)[PREDICT]
            return clicks, _short_sounds(lorabel.url, sentences[0], numbers, 2 * plan.seconds)

        stream.probe(lorabel.url, plan.warm_up_s)
        _short_sounds(lorabel.url, sentences[0], numbers, plan.warm_up_s)
        idle = waits()
        with _long_sounds(lorabel, spoken):
            busy = waits()
    rows = [Row("step of the long sound: a window is encoded: median", 1000 * step_s, "ms")]
    names = ("clicks", "transcripts of short sounds")
    for name, of_idle, of_busy in zip(names, idle, busy, strict=True):
        rows += [
            Row(f"{name}, idle: p50", percentile(of_idle, 0.5), "ms", note=f"{len(of_idle)} of them"),
            Row(f"{name}, beside a sound of 5 minutes: p50", percentile(of_busy, 0.5), "ms"),
        ]
        for share in (0.5, 0.95):
            waited_ms = percentile(of_busy, share) - percentile(of_idle, share)
            title = f"delay of {name} by the long sound: p{100 * share:.0f}, in steps"
            rows.append(Row(title, waited_ms / (1000 * step_s), "steps", goal=ONE_STEP))
    return rows


def _encoding_s(family: Speech, spoken: Sound) -> float:
    """The median seconds of the steps in which windows are encoded."""
    file = encoded(spoken[: round(LONG_S * RATE_HZ)])
    content = Content(modality=Modality.AUDIO, media=MediaRef(url="sound"))
    prepared = family.prepare(TranscriptInput(contents=(content,)), lambda _: file)
    seconds = []
    for window in prepared.windows:
        began = time.perf_counter()
        family._hear(window, NO_BATCH_ADAPTERS.use([None]), is_written=True)
        seconds.append(time.perf_counter() - began)
    return percentile(seconds, 0.5)


def _short_sounds(url: str, sentence: Sound, numbers: Iterator[int], seconds: float) -> list[float]:
    """Ask for transcripts for some seconds. Returns the milliseconds of each."""
    key = f"{PROJECT + 1}.{project_key().partition('.')[2]}"
    times, until = [], time.monotonic() + seconds
    with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as client:
        while time.monotonic() < until:
            pause = np.zeros(100 + next(numbers), np.float32)
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
def _long_sounds(lorabel: Lorabel, spoken: Sound) -> Iterator[None]:
    (problem,) = bind(CONFIG).bindings
    client, stop, failed = ModelClient(lorabel.settings), threading.Event(), list[str]()
    asked = threading.Event()

    def run() -> None:
        for number in itertools.count():
            start = round(number * BETWEEN_S * RATE_HZ) % (len(spoken) - round(LONG_S * RATE_HZ))
            file = encoded(spoken[start : start + round(LONG_S * RATE_HZ)])
            question = problem.model_input({"audio": data_url(file, "audio/wav")})
            row = PredictRow(kind=question.kind, input=question.model_dump())
            asked.set()
            failed.extend(_errors(client, row, stop.is_set))
            if failed or stop.is_set():
                return

    before = read_costs(lorabel).cpu_s
    thread = threading.Thread(target=run)
    thread.start()
    try:
        asked.wait()
        while read_costs(lorabel).cpu_s["model_server"] < before["model_server"] + 1.0 and not failed:
            time.sleep(0.1)
        yield
    finally:
        stop.set()
        thread.join()
        client.close()
    if failed:
        raise RuntimeError(f"the long sound got no answer: {failed[0]}")


def _errors(client: ModelClient, row: PredictRow, is_over: Callable[[], bool]) -> list[str]:
    try:
        answers = client.predict([row], LONG_TIMEOUT_S, LONG_PROJECT, Priority.BULK, is_over)
    except LorabelError as error:
        return [] if is_over() else [str(error)]
    return [answer.error.reason for answer in answers if answer.error is not None]
