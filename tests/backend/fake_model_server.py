"""A fake model server over real HTTP, which answers from the address of a picture, without a model.

`.../red0.png` shows the label `red`. A picture with `forbidden` in its address cannot be read now, and a picture
with `broken` in its address can never be read.
"""

import base64
import json
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flask import Flask, Response, request
from numpy.typing import NDArray
from werkzeug.serving import make_server

from lorabel.contracts import (
    Contract,
    Embedding,
    EmbedInput,
    Estimate,
    ItemScores,
    LabelScores,
    LabelsInput,
    Modality,
    RankingInput,
    RatingInput,
    SpanScores,
    SpansInput,
)
from lorabel.explanation_contracts import ExplanationInput
from lorabel.feature_contracts import (
    BoxFeaturesInput,
    EachFeaturesInput,
    Features,
    FeaturesInput,
    LineFeaturesInput,
    PictureRelationFeaturesInput,
    RelationFeaturesInput,
    SegmentFeaturesInput,
    SpanFeaturesInput,
    space_with,
)
from lorabel.inference import request_body
from lorabel.inference.disconnect import is_disconnected
from lorabel.inference.messages import (
    AnsweringFamily,
    FamiliesRequest,
    FamiliesResponse,
    FamilyInfo,
    FamilyPart,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    PredictRow,
    PreloadRequest,
    RowError,
    RowResult,
)
from lorabel.labeling.words import find_words
from lorabel.mask_contracts import LabelledMasksInput, Masks, MasksInput
from lorabel.problems.text_in_pictures import SAMPLE_LINES
from lorabel.region_contracts import EachEstimate, EachLabelScores, EachLabelsInput, EachRatingInput
from lorabel.relation_contracts import PictureRelationsInput, Relations, RelationsInput
from lorabel.series_contracts import SeriesFeaturesInput, SeriesInput, SeriesScores
from lorabel.space_contracts import BoxesInput, Corners, TextLine, TextLines, TextLinesInput
from lorabel.text_contracts import TextInput, WrittenText
from lorabel.time_contracts import SegmentScores, SegmentsInput
from lorabel.track_contracts import TrackFeaturesInput, Tracks, TracksInput
from tests.backend.fake_answers import SURE, explained, found_boxes, prompted_masks, shown_by
from tests.serving import serving

# The answers to questions that a base model cannot answer before it is trained, and a picture without text.
SILENT: dict[str, Contract] = {
    SpansInput.kind: SpanScores(spans=()),
    RatingInput.kind: Estimate(),
    RankingInput.kind: ItemScores(),
    TextLinesInput.kind: TextLines(lines=(), width=400, height=200),
    LabelledMasksInput.kind: Masks(masks=(), width=4, height=2),
    RelationsInput.kind: Relations(relations=()),
    PictureRelationsInput.kind: Relations(relations=()),
    SegmentsInput.kind: SegmentScores(segments=(), length_s=1.5),
    SeriesInput.kind: SeriesScores(step=1.0),
    TracksInput.kind: Tracks(tracks=(), frames=24, length_s=1.0),
    TextInput.kind: WrittenText(text="a red pump", probability=0.5),
}
# Questions for what heads are fitted on, which are answered with `features`.
HEAD_FEATURES = tuple(
    question.kind
    for question in (
        FeaturesInput,
        EachFeaturesInput,
        SpanFeaturesInput,
        BoxFeaturesInput,
        SegmentFeaturesInput,
        SeriesFeaturesInput,
        TrackFeaturesInput,
        RelationFeaturesInput,
        PictureRelationFeaturesInput,
    )
)
# What is read in every picture when heads are fitted: the lines of the samples.
LINES = tuple(TextLine(corners=corners, text=text) for corners, text, _ in SAMPLE_LINES)
AXES = ("red", "blue", "green", "circle", "star")


class FakeModelServer:
    """Answers requests and records them.

    Attributes:
        rows: the rows of all requests that were answered, except those of kind "embed", which are in `embedded`.
        status: status code of the answers. If it is not 200, requests fail, from number `fails_from` on.
        wait_s: seconds that an answer takes.
        held: a part of pictures' addresses, or None. Requests about these are answered once `released` is set.
        disconnected: number of requests whose client disconnected before the answer.
        outputs: outputs by a part of the picture's address, instead of the usual output.
        featured: the questions for features.
        space: the space of the embeddings and of the features.
        text_space: the space of questions that are about texts only and compared with texts only, and of their
            features, as if another family answered them; None if it is `space`.
        families: the families that are loaded.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.rows: list[PredictRow] = []
        self.requests: list[PredictRequest] = []
        self.preloaded: list[str] = []
        self.status = 200
        self.fails_from = 0
        self.wait_s = 0.0
        self.held: str | None = None
        self.released = threading.Event()
        self.disconnected = 0
        self.outputs: dict[str, Any] = {}
        self.embedded: list[PredictRow] = []
        self.featured: list[FeaturesInput] = []
        self.space = "fake one"
        self.text_space: str | None = None
        self.families: list[FamilyInfo] = []

    def predict(self) -> Response:
        predict_request = request_body.decode(request.get_data(), max_rows=10_000)
        if predict_request.rows[0].kind == EmbedInput.kind:
            return self.embed(predict_request)
        time.sleep(self.wait_s)
        self.disconnected += is_disconnected(request.environ["werkzeug.socket"])
        self.requests.append(predict_request)
        if self.held and self.held in str(predict_request.rows[0].input):
            self.released.wait()
        if self.status != 200 and len(self.requests) > self.fails_from:
            return Response("no", self.status, {"Retry-After": "7"})
        self.rows += predict_request.rows
        answer = PredictResponse(rows=[self.answer(row) for row in predict_request.rows])
        # Python's json writes NaN, whereas pydantic would write null.
        return Response(json.dumps(answer.model_dump()), content_type="application/json")

    def embed(self, predict_request: PredictRequest) -> Response:
        """A vector has a 1 for each of AXES that the text, or the address of the picture, names."""
        self.embedded += predict_request.rows
        answer = PredictResponse(rows=[self.embedding(row) for row in predict_request.rows])
        return Response(answer.model_dump_json(), self.status, content_type="application/json")

    def embedding(self, row: PredictRow) -> RowResult:
        question = EmbedInput.model_validate(row.input)
        shown = " ".join(
            content.media.url.rsplit("/", 1)[-1] if content.media else str(content.text)
            for content in question.contents
        )
        if "broken" in shown or "forbidden" in shown:
            return RowResult(error=RowError(reason="no picture", is_permanent="broken" in shown))
        vector = np.array([0.1, *(float(axis in shown) for axis in AXES)])
        float16 = (vector / np.linalg.norm(vector)).astype("<f2").tobytes()
        space = self._space(question.modalities)
        embedding = Embedding(space=space, float16=base64.b64encode(float16).decode())
        return RowResult(output=embedding.model_dump())

    def _space(self, modalities: Collection[Modality]) -> str:
        return self.text_space if self.text_space and set(modalities) == {Modality.TEXT} else self.space

    def features(self, row: PredictRow) -> Features:
        """For each content, or word, those of `embedding`, and a little that depends on all that it shows.

        With an adapter, every dimension comes twice, as if the adapter changed nothing.
        """
        space = self.space
        if row.kind == BoxFeaturesInput.kind:
            of_boxes = BoxFeaturesInput.model_validate(row.input)
            return self.place_features([corners for corners, _ in of_boxes.boxes], len(of_boxes.labels))
        if row.kind == TrackFeaturesInput.kind:
            of_tracks = TrackFeaturesInput.model_validate(row.input)
            drawn = [corners for of_frame in of_tracks.boxes for corners, _ in of_frame]
            return self.place_features(drawn, len(of_tracks.labels))
        if row.kind == SegmentFeaturesInput.kind:
            return self.segment_features(SegmentFeaturesInput.model_validate(row.input))
        if row.kind == SeriesFeaturesInput.kind:
            return self.series_features(SeriesFeaturesInput.model_validate(row.input))
        if row.kind in (SpanFeaturesInput.kind, RelationFeaturesInput.kind):
            text = str(row.input["contents"][0]["text"])
            parts, logits = [text[start:end] for start, end in find_words(text)], np.zeros(0)
        elif row.kind == PictureRelationFeaturesInput.kind:
            contents = PictureRelationFeaturesInput.model_validate(row.input).contents
            parts, logits = [shown_by(content) for content in contents], np.zeros(0)
        else:
            question = FeaturesInput.model_validate(row.input)
            self.featured.append(question)
            parts = [shown_by(content) for content in question.contents]
            asked = parts if row.kind == EachFeaturesInput.kind else parts[:1]
            labels = [texts[0] for texts in question.labels]
            logits = np.log(np.concatenate([_scores(part, labels) for part in asked]))
            space = self._space(question.modalities)
        vectors = np.tile(np.stack([_vector(part) for part in parts]), 2 if row.adapter else 1).astype("<f2")
        return Features(
            space=space_with(space, row.adapter),
            dim=vectors.shape[1],
            float16=base64.b64encode(vectors.tobytes()).decode(),
            logits=tuple(logits.tolist()),
        )

    def place_features(self, boxes: Sequence[Corners], labels: int) -> Features:
        """Places at the boxes, and one where none is, which all look as their place does."""
        places = np.array([*boxes, (0.0, 0.0, 1.0, 1.0)]).astype("<f2")
        return Features(
            space=self.space,
            dim=places.shape[1],
            float16=base64.b64encode(places.tobytes()).decode(),
            logits=(0.0,) * (len(places) * labels),
        )

    def segment_features(self, question: SegmentFeaturesInput) -> Features:
        """Seven windows of a sound of 1.5 s, each a little different, and what the address shows."""
        shown = _vector(shown_by(question.contents[0]))
        windows = np.array([[*shown, number, 1.0] for number in range(7)])
        windows = (windows / np.linalg.norm(windows, axis=1, keepdims=True)).astype("<f2")
        return Features(
            space=self.space,
            dim=windows.shape[1],
            float16=base64.b64encode(windows.tobytes()).decode(),
            logits=(0.0,) * (len(windows) * len(question.labels)),
        )

    def series_features(self, question: SeriesFeaturesInput) -> Features:
        """Two windows for each label, one of which is all of what it marks; and what the address shows."""
        shown, labels = _vector(shown_by(question.contents[0])), len(question.labels)
        marked = {label for _, _, label in question.segments}
        windows = np.array([[*shown, label, is_marked] for label in range(labels) for is_marked in (0.0, 1.0)])
        shares = [
            float(is_marked and label == window and label in marked)
            for window in range(labels)
            for is_marked in (False, True)
            for label in range(labels)
        ]
        return Features(
            space=self.space,
            dim=windows.shape[1],
            float16=base64.b64encode(windows.astype("<f2").tobytes()).decode(),
            logits=tuple(shares),
        )

    def preload(self) -> Response:
        self.preloaded += PreloadRequest.model_validate_json(request.get_data()).adapters
        return Response("{}", self.status, content_type="application/json")

    def models(self) -> Response:
        answer = ModelsResponse(
            device="cpu", precision="float32", max_batch=64, families=self.families, adapters=[], adapter_bytes=0
        )
        return Response(answer.model_dump_json(), content_type="application/json")

    def families_of(self) -> Response:
        """The family `fake` answers everything but segments of series."""
        asked = FamiliesRequest.model_validate_json(request.get_data())
        part = FamilyPart(family="fake", source="hf-hub:base", is_loaded=False)
        answers = [
            AnsweringFamily(parts=[], fault="no family answers series")
            if question.kind == SeriesInput.kind
            else AnsweringFamily(parts=[part])
            for question in asked.questions
        ]
        body = FamiliesResponse(families=answers).model_dump_json()
        return Response(body, self.status, content_type="application/json")

    def answer(self, row: PredictRow) -> RowResult:
        (content, *_) = row.input["contents"]
        url = content["text"] if content["media"] is None else content["media"]["url"]
        for part, output in self.outputs.items():
            if part in url:
                return RowResult(output=output)
        if "forbidden" in url:
            return RowResult(error=RowError(reason=f"{url}: 403", is_permanent=False))
        if "broken" in url:
            return RowResult(error=RowError(reason=f"{url}: no picture", is_permanent=True))
        if row.kind == LineFeaturesInput.kind:
            return RowResult(output=Features(space=self.space, dim=0, float16="", lines=LINES).model_dump())
        if row.kind in HEAD_FEATURES:
            return RowResult(output=self.features(row).model_dump())
        if row.kind == MasksInput.kind:
            return RowResult(output=prompted_masks(MasksInput.model_validate(row.input)).model_dump())
        if row.kind == BoxesInput.kind:
            return RowResult(output=found_boxes(BoxesInput.model_validate(row.input)).model_dump())
        if row.kind in (LabelsInput.kind, EachLabelsInput.kind):
            return RowResult(output=_label_scores(row, url).model_dump(exclude_defaults=True))
        return RowResult(output=_silent(row).model_dump())


def _silent(row: PredictRow) -> Contract:
    if row.kind == ExplanationInput.kind:
        return explained(ExplanationInput.model_validate(row.input))
    if row.kind == EachRatingInput.kind:
        return EachEstimate(answers=(Estimate(),) * len(row.input["contents"]))
    return SILENT[row.kind]


def _label_scores(row: PredictRow, url: str) -> LabelScores | EachLabelScores:
    scores = LabelScores(probabilities=tuple(_scores(url, [texts[0] for texts in row.input["labels"]])))
    if row.kind == LabelsInput.kind:
        return scores
    return EachLabelScores(answers=(scores,) * len(row.input["contents"]))


def _vector(shown: str) -> NDArray[np.float64]:
    noise = np.random.default_rng(list(shown.encode())).normal(0, 0.1, len(AXES))
    vector = np.array([0.1, *(float(axis in shown) for axis in AXES)]) + [0.0, *noise]
    return np.asarray(vector / np.linalg.norm(vector))


def _scores(url: str, texts: list[str]) -> list[float]:
    name = url.rsplit("/", 1)[-1]
    shown = next((i for i, text in enumerate(texts) if text in name), 0)
    rest = (1 - SURE) / max(1, len(texts) - 1)
    return [SURE if i == shown else rest for i in range(len(texts))]


@contextmanager
def running() -> Iterator[FakeModelServer]:
    app = Flask("fake-model-server")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    fake = FakeModelServer(f"http://127.0.0.1:{server.server_port}")
    app.add_url_rule("/v1/predict", view_func=fake.predict, methods=["POST"])
    app.add_url_rule("/v1/preload", view_func=fake.preload, methods=["POST"])
    app.add_url_rule("/v1/families", view_func=fake.families_of, methods=["POST"])
    app.add_url_rule("/v1/models", view_func=fake.models)
    with serving(server):
        yield fake
