"""Questions about whole videos that are answered from frames, sound and speech together.

A fitted head of such a question has learned from the features of all these parts (`lorabel...heads.parts`). So a
row that asks for what heads are fitted on becomes a row for each part, and a row with such a head a row for each
part that counts in it: the frames for the dual encoder, the sound for the audio encoder, and what is said for the
text encoder. What is said are the subtitles of the file, else the transcript by the family `speech`; it is written
once per content and remembered.

A text about a video is asked for together with what is said in it. What is said may also be asked for by itself.

All other rows about videos are answered from their frames, as nothing has been learned yet about what is heard.
"""

import base64
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, replace

import numpy as np
from cachetools import LRUCache

from lorabel.contracts import Content, Input, MediaRef, Modality
from lorabel.errors import NotFoundError, UnreadableError
from lorabel.families.base import Family
from lorabel.families.encoders.heads.head_answers import answer_with_head, check_head
from lorabel.families.encoders.heads.linear_head import Array, LinearHead
from lorabel.families.encoders.heads.parts import (
    PARTS,
    as_table,
    has_parts,
    is_of_parts,
    of_width,
    space_of_parts,
    with_parts,
)
from lorabel.families.loading import family_for
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.inference.messages import Priority, RowResult
from lorabel.media.deadline import deadline
from lorabel.media.silence import is_beginning_heard, is_middle_heard
from lorabel.media.subtitles import read_subtitles
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, TranscriptInput, WrittenText, is_about_video, with_words
from model_server.fair_queue import FairQueue
from model_server.family_pool import FamilyPool
from model_server.files import File, Files
from model_server.heads import Heads
from model_server.metrics import Metrics
from model_server.rows import Row, errors_as_result

log = logging.getLogger(__name__)

# Videos that are in work at a time, and as many more for people: the file of each is in memory.
THREADS = 8
# Characters of all texts that are remembered.
MOST_CHARACTERS = 16 * 2**20

Start = Callable[[Row], None]


class _FailedError(Exception):
    """A part has an error that is the row's."""

    def __init__(self, result: RowResult) -> None:
        super().__init__(result)
        self.result = result


@dataclass(frozen=True)
class _Heard:
    """What is known of the sound of a file.

    Args:
        words: what is said; None if nobody has found out.
    """

    has_sound: bool
    words: str | None


class VideoParts:
    """Answers rows about videos from the parts of the videos. Thread-safe.

    Args:
        start: begins to compute a row that one family answers.
    """

    def __init__(
        self,
        settings: Settings,
        files: Files,
        family_pool: FamilyPool,
        heads: Heads,
        metrics: Metrics,
        start: Start,
    ) -> None:
        self._settings, self._files, self._family_pool, self._heads = settings, files, family_pool, heads
        self._metrics, self._start = metrics, start
        self._heard: LRUCache[str, _Heard] = LRUCache(
            MOST_CHARACTERS, getsizeof=lambda heard: 100 + len(heard.words or "")
        )
        self._lock = threading.Lock()
        self._queues: dict[bool, FairQueue[Row]] = {True: FairQueue(), False: FairQueue()}
        for is_person, queue in self._queues.items():
            for _ in range(THREADS):
                name = f"videos-{'people' if is_person else 'background'}"
                threading.Thread(target=self._work, args=(queue,), name=name, daemon=True).start()

    def begin(self, row: Row) -> bool:
        """Begin to answer a row if it needs the parts of a video; False if the frames alone answer it."""
        if not self._is_for_parts(row):
            return False
        self._queues[row.priority == Priority.INTERACTIVE].put(row)
        return True

    def close(self) -> None:
        """End the threads, after the rows that they are answering."""
        for queue in self._queues.values():
            queue.close()

    def _is_for_parts(self, row: Row) -> bool:
        if is_about_video(row.question) or _asks_for_words(row.question):
            return self._settings.video_speech
        if not has_parts(row.question) or row.question.contents[0].media is None:
            return False
        return isinstance(row.question, FeaturesInput) or self._head(row) is not None

    def _head(self, row: Row) -> LinearHead | None:
        """The head of a row if it was fitted on parts; what is wrong with another is said where it is applied."""
        if row.head is None:
            return None
        try:
            head = self._heads.read(row.head)
        except (NotFoundError, UnreadableError):
            return None
        return head if is_of_parts(head.space) else None

    def _work(self, queue: FairQueue[Row]) -> None:
        while self._answer_next(queue):
            """The body is a separate function so that a waiting thread holds no reference to the last file."""

    def _answer_next(self, queue: FairQueue[Row]) -> bool:
        row = queue.get()
        if row is None:
            return False
        if row.is_wanted():
            with errors_as_result(row.done, row.question.kind), deadline(row.deadline):
                try:
                    self._answer(row)
                except _FailedError as failed:
                    row.finish(failed.result)
                except (TimeoutError, CancelledError):
                    if row.is_wanted():  # else it has timed out, which was said, or was cancelled
                        raise
        return True

    def _answer(self, row: Row) -> None:
        videos = [content.media for content in row.question.contents if content.modality == Modality.VIDEO]
        media = videos[0]
        if media is None:
            raise UnreadableError("the video has no address", is_permanent=True)
        video = _Video(self, row, media)
        if isinstance(row.question, TextInput):
            row.question = with_words(row.question, self._words(video))
            if row.priority == Priority.INTERACTIVE:
                row.held = (
                    video.held
                )  # of background rows, hundreds may wait, so that their files are fetched again
            self._start(row)
        elif isinstance(row.question, TranscriptInput):
            row.finish(RowResult(output=WrittenText(text=self._words(video), probability=1.0).model_dump()))
        else:
            self._answer_from_parts(row, video)

    def _words(self, video: "_Video") -> str:
        """What is said in a video."""
        heard = self._heard_in(video)
        words = heard.words
        if words is None:
            words = self._transcript(video)
            if words is not None:
                self._keep(video.digest, replace(heard, words=words))
        return words or ""

    def _answer_from_parts(self, row: Row, video: "_Video") -> None:
        head, settings = self._head(row), self._settings
        wanted = PARTS if head is None else head.slots
        frames = video.ask(_features_question(row.question))
        is_heard = Modality.AUDIO in wanted and settings.video_sound and self._heard_in(video).has_sound
        sound = video.ask_if(is_heard, Modality.AUDIO)
        transcript = self._words(video) if Modality.TEXT in wanted and settings.video_speech else ""
        words = video.ask_if(bool(transcript), Modality.TEXT, transcript)
        of_frames = Features.model_validate(_output(frames, row))
        rows = {Modality.VIDEO: _row_of(of_frames)}
        for part, asked in ((Modality.AUDIO, sound), (Modality.TEXT, words)):
            features = None if asked is None else _output_or_nothing(asked, row)
            if features is not None:
                rows[part] = _row_of(Features.model_validate(features))
        space = space_of_parts([of_frames.space, *self._other_spaces])
        self._finish(row, as_table(rows), of_frames, space)

    def _finish(self, row: Row, table: Array, of_frames: Features, space: str) -> None:
        if isinstance(row.question, FeaturesInput):
            float16 = base64.b64encode(table.astype("<f2").tobytes()).decode()
            features = of_frames.model_copy(update={"space": space, "dim": table.shape[1], "float16": float16})
            row.finish(RowResult(output=features.model_dump()))
            return
        head = self._head(row)
        question, rows = with_parts(row.question, table)
        try:
            if head is None:
                raise UnreadableError("the fitted head is gone", is_permanent=False)
            width = len(head.weights) // max(1, len(head.slots))
            check_head(head, question, space, width)
        except UnreadableError as error:
            self._metrics.missing_heads.inc()
            log.warning("a row is answered without head %s: %s", row.head, error)
            row.head = None
            self._start(row)
            return
        logits = np.array(of_frames.logits, np.float32)
        answer = answer_with_head(head, question, of_width(rows, width), logits)
        row.finish(RowResult(output=answer.model_dump()))

    @property
    def _other_spaces(self) -> list[str]:
        """The spaces of the other parts that the settings switch on: a change of a model needs other heads."""
        names = [("audio_text_encoder", self._settings.video_sound), ("text_encoder", self._settings.video_speech)]
        return [f"{name} {self._source(name)}" if is_on else "nothing" for name, is_on in names]

    def _source(self, family: str) -> str:
        types = (_family_of(Modality.AUDIO), _family_of(Modality.TEXT))
        default = next((type_.default_source for type_ in types if type_.name == family), "")
        return self._settings.models.get(family, default)

    def _heard_in(self, video: "_Video") -> _Heard:
        """What is known of a video's sound; the file is fetched if nothing is."""
        known_digest = self._files.recent_digest(video.row.project, video.media)
        with self._lock:
            heard = None if known_digest is None else self._heard.get(known_digest)
        if heard is not None and known_digest is not None:
            video.digest = known_digest
            return heard
        file = video.file()
        settings = self._settings
        has_sound = is_middle_heard(file.data, settings.audio_max_s)
        words: str | None = ""
        if settings.video_speech:
            words = read_subtitles(file.data)
            # The transcript is of another part of the file than the sound.
            if not words and (has_sound or is_beginning_heard(file.data, settings.speech_max_s)):
                words = None
        heard = _Heard(has_sound, words)
        self._keep(file.digest, heard)
        return heard

    def _keep(self, digest: str, heard: _Heard) -> None:
        with self._lock:
            self._heard[digest] = heard

    def _transcript(self, video: "_Video") -> str | None:
        """What the family `speech` writes; None if it cannot be loaded now."""
        content = Content(modality=Modality.AUDIO, media=video.media)
        asked = video.ask_if_loaded(TranscriptInput(contents=(content,)))
        if asked is None:
            return None
        written = _output_or_nothing(asked, video.row)
        return "" if written is None else str(written["text"])

    def load(self, question: Input, row: Row) -> bool:
        """Wait until the family of a question is loaded; False if it cannot be, so that its part is left out.

        The reason is in the log of the family pool.
        """
        try:
            self._family_pool.get_or_load(question).result(_left_s(row))
        except Exception as error:
            if isinstance(error, TimeoutError) and not row.is_wanted():
                raise  # the row waits no longer, whether or not the model is loaded later
            name = family_for(question).name
            self._metrics.left_out_parts.labels(name).inc()
            log.warning("what %s would hear in a video is left out, as it cannot be loaded", name)
            return False
        return True

    def begin_part(self, part: Row) -> None:
        """Begin to compute the row of a part."""
        with errors_as_result(part.done, part.question.kind):
            self._start(part)

    def fetch(self, row: Row, media: MediaRef) -> "Future[File]":
        return self._files.get(row.project, media, row.priority)


class _Video:
    """A row and the file that it is about. Only one thread uses it, and the file is fetched once."""

    def __init__(self, parts: VideoParts, row: Row, media: MediaRef) -> None:
        self.row, self.media, self.digest = row, media, ""
        self._parts = parts
        self._fetched: Future[File] | None = None

    def file(self) -> File:
        """The file; it is kept for the parts that come later."""
        if self._fetched is None:
            self._fetched = self._parts.fetch(self.row, self.media)
        file = self._fetched.result(_left_s(self.row))
        self.digest = file.digest
        return file

    @property
    def held(self) -> "dict[MediaRef, Future[File]]":
        """The file, if it was fetched."""
        return {} if self._fetched is None else {self.media: self._fetched}

    def ask(self, question: Input) -> "Future[RowResult]":
        """Begin a row for a part; an adapter changes the frames alone."""
        is_frames = question.contents[0].modality == Modality.VIDEO
        part = replace(
            self.row,
            question=question,
            adapter=self.row.adapter if is_frames else None,
            head=None,
            done=Future(),
            files={},
            held=self.held,
            loaded=None,
            example=None,
        )
        self.row.done.add_done_callback(lambda _: part.done.cancel())
        self._parts.begin_part(part)
        return part.done

    def ask_if_loaded(self, question: Input) -> "Future[RowResult] | None":
        """Begin a row if its family can be loaded."""
        return self.ask(question) if self._parts.load(question, self.row) else None

    def ask_if(self, is_there: bool, modality: Modality, text: str | None = None) -> "Future[RowResult] | None":
        """Begin the row for the features of a part that the video has; None if it lacks the part."""
        if not is_there:
            return None
        content = Content(modality=modality, text=text, media=self.media if text is None else None)
        return self.ask_if_loaded(FeaturesInput(contents=(content,)))


def _features_question(question: Input) -> Input:
    return question if isinstance(question, FeaturesInput) else FeaturesInput.of(question)


def _asks_for_words(question: Input) -> bool:
    """Whether it is asked what is said in a video, which no family answers."""
    return isinstance(question, TranscriptInput) and Modality.VIDEO in question.modalities


def _family_of(modality: Modality) -> type[Family]:
    return family_for(FeaturesInput(contents=(Content(modality=modality, text=""),)))


def _left_s(row: Row) -> float:
    return max(0.0, row.deadline - time.monotonic())


def _output(asked: "Future[RowResult]", row: Row) -> dict[str, object]:
    """The output of a part; its error is the row's."""
    result = asked.result(_left_s(row))
    if result.output is None:
        raise _FailedError(result)
    return result.output


def _output_or_nothing(asked: "Future[RowResult]", row: Row) -> dict[str, object] | None:
    """The output of a part; None if the file never can have one, such as a sound that is broken."""
    result = asked.result(_left_s(row))
    if result.error is not None and result.error.is_permanent:
        log.info("a part of a video is left out: %s", result.error.reason)
        return None
    return _output(asked, row)


def _row_of(features: Features) -> Array:
    """The features of a part's only content."""
    return np.frombuffer(base64.b64decode(features.float16), "<f2").astype(np.float32)
