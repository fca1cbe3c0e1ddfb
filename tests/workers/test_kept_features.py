"""What a run keeps of its features, so that the model server need not compute them."""

from typing import Literal

import pytest

from lorabel.contracts import Content, LabelsInput, LabelTarget, Modality
from lorabel.database import projects, task_features
from lorabel.database.store import Store
from lorabel.database.tables import ModelVersion
from lorabel.evaluation.metrics import Metrics
from lorabel.feature_contracts import Features
from lorabel.settings import Settings
from tests.workers.test_finetune import PROJECT
from workers.acceptance import Judgement
from workers.active_adapter import ACTIVE
from workers.attempt import Attempt, Candidate
from workers.examples import TrainingExample
from workers.new_version import keep_features
from workers.services import Services

TEXT = Content(modality=Modality.TEXT, text="a text")
FEATURES = Features(space=f"text_encoder a with adapter {ACTIVE}", dim=2, float16="ADw8Ow==")


@pytest.mark.parametrize(("precision", "kept"), [("float32", [7]), ("bfloat16", [7]), ("int8", [])])
def test_features_of_a_run_are_kept_unless_the_model_server_has_another_precision(
    settings: Settings, store: Store, precision: Literal["float32", "bfloat16", "int8"], kept: list[int]
) -> None:
    projects.upsert(store, PROJECT, label_config="<View/>")
    question = LabelsInput(contents=(TEXT,), labels=(("a",), ("b",)))
    example = TrainingExample((1,), 7, question, LabelTarget((0,)), 0, True)
    judgement = Judgement(True, "better", Metrics("accuracy", {}), Metrics("accuracy", {}))
    candidate = Candidate(
        judgement,
        None,
        "text_encoder",
        "a",
        0.1,
        [1],
        frozenset({7}),
        is_beside_head=True,
        features=[(example, FEATURES)],
    )
    version = ModelVersion(project_id=PROJECT, number=2, adapters={"label": "p1.v2/label"})
    services = Services.open(settings.model_copy(update={"precision": precision}))
    try:
        keep_features(services, version, {"label": Attempt(candidate, {})})
    finally:
        services.close()
    with store.read() as session:
        assert [*task_features.read(session, PROJECT, "label", [7])] == kept
