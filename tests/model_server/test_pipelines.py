"""Masks by labels over the model server's HTTP API: rows of detector and segmenter, among those of others."""

import base64
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flask import Flask
from peft import LoraConfig, PeftModel, get_peft_model

from lorabel.contracts import Content, Contract, Input, MediaRef, Modality
from lorabel.database.adapter_folders import HEAD_FILE, AdapterFolders
from lorabel.demo import DETECTOR_FOLDER, SEGMENTER_FOLDER
from lorabel.demo.scenes import png
from lorabel.families.base import NO_BATCH_ADAPTERS, Family
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.mask_pipeline import AND, MaskPipeline
from lorabel.families.segmenter import Segmenter
from lorabel.feature_contracts import Features
from lorabel.inference import request_body
from lorabel.inference.messages import PredictRequest, PredictResponse, PredictRow, Priority, RowResult
from lorabel.labeling.bit_masks import mask_of
from lorabel.mask_contracts import LabelledMasksInput, Masks, MasksInput, Point, Prompt
from lorabel.problems.binding import bind
from lorabel.settings import Settings
from lorabel.space_contracts import Boxes, BoxesInput
from model_server.app import create_app
from model_server.engine import Engine
from model_server.rows import Row
from tests.e2e.courses import data_url
from tests.e2e.courses.boxes import GRADE, SQUARE, scenes
from tests.e2e.courses.masks import COURSE as MASKS
from tests.questions import row
from workers import lora
from workers.attempt import save_adapter

pytestmark = pytest.mark.slow

MODELS = {"detector": f"local-dir:{DETECTOR_FOLDER}", "segmenter": f"local-dir:{SEGMENTER_FOLDER}"}
LABELS = (("red circle",), ("blue square",))
PICTURES = [png(scene) for scene in scenes(4, seed=3)]
URLS = [data_url(picture, "image/png") for picture in PICTURES]
"""One picture per project: project 1 and 4 have masks by labels, 2 boxes, 3 clicks."""


def load(family: type[Family]) -> Family:
    source = MODELS[family.name] if family.name in MODELS else AND.join(MODELS.values())
    return family.load(source, torch.device("cpu"), torch.float32, Settings())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> AdapterFolders:
    """Adapters with random weights: `p1.v1/mask` and so on."""
    folders = AdapterFolders(tmp_path_factory.mktemp("data") / "adapters")
    torch.manual_seed(0)
    for project, (family_type, tag) in enumerate(
        ((MaskPipeline, "mask"), (Detector, "box"), (Segmenter, "click"), (MaskPipeline, "mask")), start=1
    ):
        family = load(family_type)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=lora.only(family.lora_layers()))
        model = get_peft_model(family.module, config)
        model.peft_config["default"].base_model_name_or_path = family.source
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.03)

        def write(folder: Path, model: Any = model, family: Family = family, tag: str = tag) -> None:
            save_adapter(model, family, folder / tag)

        folders.write(f"p{project}.v1", write)
    return folders


@pytest.fixture
def app(folders: AdapterFolders) -> Iterator[Flask]:
    settings = Settings(
        data_dir=folders.root.parent, models=MODELS, families="", device="cpu", precision="float32"
    )
    app = create_app(settings)
    yield app
    app.extensions["engine"].close()


def about(question: type[Input], number: int, **fields: Any) -> Any:
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url=URLS[number]))
    return question(contents=(picture,), **fields)


def predict(app: Flask, rows: Sequence[PredictRow]) -> list[RowResult]:
    body = request_body.encode(PredictRequest(rows=list(rows), timeout_s=60))
    answer = app.test_client().post("/v1/predict", data=body)
    assert answer.status_code == 200, answer.text
    return PredictResponse.model_validate_json(answer.data).rows


def alone(family_type: type[Family], folder: Path | None, question: Input) -> Contract:
    """The answer of PEFT, with the adapter of a whole folder, to one question."""
    family = load(family_type)
    if folder is not None:
        PeftModel.from_pretrained(family.module, folder)
    (content,) = question.contents
    prepared = family.prepare(
        question, lambda _: PICTURES[URLS.index(content.media.url)] if content.media else b""
    )
    (answer,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    return answer


def assert_same_masks(found: Masks, expected: Masks) -> None:
    assert [mask.label for mask in found.masks] == [mask.label for mask in expected.masks]
    size = expected.width, expected.height
    assert (found.width, found.height, found.threshold) == (*size, expected.threshold)
    for mask, other in zip(found.masks, expected.masks, strict=True):
        assert mask.probability == pytest.approx(other.probability, abs=1e-3)
        assert (mask_of(mask.runs, *size) == mask_of(other.runs, *size)).mean() > 0.999


def test_mixed_rows_of_detector_segmenter_and_pipeline_are_what_each_is_alone(
    app: Flask, folders: AdapterFolders
) -> None:
    click = (Prompt(label=0, points=(Point(x=0.4, y=0.5),)),)
    questions: list[tuple[type[Family], Input, str | None]] = [
        (MaskPipeline, about(LabelledMasksInput, 0, labels=LABELS), "p1.v1/mask"),
        (Detector, about(BoxesInput, 1, labels=LABELS), "p2.v1/box"),
        (Segmenter, about(MasksInput, 2, prompts=click), "p3.v1/click"),
        (MaskPipeline, about(LabelledMasksInput, 3, labels=LABELS[::-1]), "p4.v1/mask"),
        (MaskPipeline, about(LabelledMasksInput, 0, labels=LABELS), None),
        (MaskPipeline, about(LabelledMasksInput, 0, labels=LABELS), "p4.v1/mask"),
        (Detector, about(BoxesInput, 0, labels=LABELS), None),
        (Segmenter, about(MasksInput, 0, prompts=click), None),
    ]
    results = predict(app, [row(question, adapter=adapter) for _, question, adapter in questions])
    masks = []
    for (family, question, adapter), result in zip(questions, results, strict=True):
        assert result.error is None, result.error
        expected = alone(family, None if adapter is None else folders.path(adapter), question)
        if isinstance(expected, Boxes):
            found = Boxes.model_validate(result.output)
            assert [box.label for box in found.boxes] == [box.label for box in expected.boxes]
            for box, other in zip(found.boxes, expected.boxes, strict=True):
                assert (*box.corners, box.probability) == pytest.approx(
                    (*other.corners, other.probability), abs=2e-3
                )
        else:
            assert isinstance(expected, Masks)
            masks.append(Masks.model_validate(result.output))
            assert_same_masks(masks[-1], expected)
    assert masks[0] != masks[3] != masks[4], "an adapter changes the answer about the same picture"


def test_a_picture_that_cannot_be_read_is_the_error_of_its_row_alone(app: Flask) -> None:
    broken = Content(modality=Modality.IMAGE, media=MediaRef(url=data_url(b"GIF89a", "image/png")))
    questions = [
        LabelledMasksInput(contents=(broken,), labels=LABELS),
        about(LabelledMasksInput, 0, labels=LABELS),
    ]
    failed, answered = predict(app, [row(question) for question in questions])
    assert failed.error is not None and failed.error.is_permanent
    assert Masks.model_validate(answered.output).masks


def test_a_click_waits_for_no_more_than_the_step_of_a_bulk_run_that_is_being_computed(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, click = app.extensions["engine"], (Prompt(label=0, points=(Point(x=0.4, y=0.5),)),)
    predict(app, [row(about(LabelledMasksInput, 0, labels=LABELS))])  # loads both, and remembers the embedding
    are_clicks: list[bool] = []
    is_clicked, is_computing = threading.Event(), threading.Event()
    forward, put = Engine._forward, engine._ready.put

    def noted(self: Engine, batch: list[Row]) -> Any:
        """Note whether the step is the click's. The first step lasts until the click is ready to be computed."""
        are_clicks.append(batch[0].priority == Priority.INTERACTIVE)
        is_computing.set()
        assert is_clicked.wait(60)
        return forward(self, batch)

    def noted_put(waiting_row: Row) -> None:
        put(waiting_row)
        if waiting_row.priority == Priority.INTERACTIVE:
            is_clicked.set()

    monkeypatch.setattr(Engine, "_forward", noted)
    monkeypatch.setattr(engine._ready, "put", noted_put)
    pictures = [png(scene) for scene in scenes(24, seed=4)]
    bulk = [
        LabelledMasksInput(
            contents=(Content(modality=Modality.IMAGE, media=MediaRef(url=data_url(picture, "image/png"))),),
            labels=LABELS,
        )
        for picture in pictures
    ]
    request = PredictRequest(rows=[row(each) for each in bulk], timeout_s=60, project=1, priority=Priority.BULK)
    waiting = engine.submit(request)
    assert is_computing.wait(60)
    clicked = PredictRequest(rows=[row(about(MasksInput, 0, prompts=click))], timeout_s=60, project=2)
    (answer,) = engine.submit(clicked)
    assert Masks.model_validate(answer.result(60).output).masks
    assert all(Masks.model_validate(each.result(60).output) for each in waiting)
    assert are_clicks[:2] == [False, True], "no other step begins before the click's"
    assert are_clicks[2:] and not any(are_clicks[2:]), "the bulk run was not over"


def test_an_adapter_of_another_base_model_is_refused_for_each_part(app: Flask) -> None:
    """The part of project 2's adapter that the segmenter would need does not exist."""
    (failed,) = predict(app, [row(about(LabelledMasksInput, 0, labels=LABELS), adapter="p2.v1/box")])
    assert failed.error is not None and "was trained on" in failed.error.reason
    predict(app, [row(about(LabelledMasksInput, 0, labels=LABELS))])  # loads both families
    preload = {"adapters": ["p1.v1/mask"], "family": "mask_pipeline"}
    assert app.test_client().post("/v1/preload", json=preload).status_code == 200
    wrong = {"adapters": ["p2.v1/box"], "family": "mask_pipeline"}
    assert app.test_client().post("/v1/preload", json=wrong).status_code == 409


def test_a_head_finds_masks_of_a_label_that_words_cannot_say(app: Flask, folders: AdapterFolders) -> None:
    """The detector's rows are answered with the head, without a run; the segmenter knows nothing of it."""
    family = load(MaskPipeline)
    (binding,) = bind(MASKS.label_config).bindings
    asked = [(binding.model_input(data), binding.target(result, data)) for data, result in MASKS.tasks[:56]]

    def prepared(question: Any) -> Any:
        return family.prepare(question, lambda media: base64.b64decode(media.url.partition(",")[2]))

    examples = []
    for question, target in asked[:20]:
        for_features = family.for_features(prepared(question), target)
        (features,) = family.predict([for_features], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
        assert isinstance(features, Features)
        examples.append(Example.of(question, features, target))
    head = fit_head(examples, features.space)
    assert head is not None

    def write(folder: Path) -> None:
        (folder / "mask").mkdir()
        (folder / "mask" / HEAD_FILE).write_bytes(head.to_bytes())

    folders.write("p1.h1", write)
    unseen = asked[20:]
    precisions = []
    for name in (None, "p1.h1/mask"):
        outputs = [
            Masks.model_validate(result.output)
            for result in predict(app, [row(question).model_copy(update={"head": name}) for question, _ in unseen])
        ]
        figures = binding.metrics([target for _, target in unseen], outputs).values["per_class"]
        precisions.append([figures[label]["ap_50"] for label in (GRADE, SQUARE)])
    assert precisions[0][0] < 0.1 and precisions[1][0] > 0.3, precisions
    assert precisions[1][1] > precisions[0][1] - 0.15, precisions
    headed = family.with_head(prepared(unseen[0][0]), head)
    (alone,) = family.predict([headed], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert Masks.model_validate(alone.model_dump()).masks[0].runs == outputs[0].masks[0].runs
