"""A label that was renamed in the label config keeps what it learned, counted against which colour a picture has.

The names of the labels do not tell the colour, so without what annotators said nothing would.
"""

import logging
from typing import Any

import pytest

from lorabel.database import projects
from lorabel.database.tables import Annotation
from lorabel.families.encoders.heads.fit import Example
from lorabel.families.encoders.heads.head_answers import answer_with_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import FeaturesInput
from lorabel.inference.messages import PredictRow
from lorabel.problems.binding import bind
from tests.backend.fake_model_server import FakeModelServer
from tests.workers.events import PROJECT, annotation
from tests.workers.test_head_fitting import fit, head_file, project
from tests.workers.test_head_fitting import services as services
from workers.examples import TrainingPlan, make_plan
from workers.services import Services

COLOURS = ("red", "blue", "green")
ANNOTATED, UNSEEN = range(1, 13), range(100, 130)


def config(*choices: str) -> str:
    return (
        '<View><Image name="image" value="$image"/><Choices name="label" toName="image">'
        + "".join(f"<Choice {choice}/>" for choice in choices)
        + "</Choices></View>"
    )


def data(number: int) -> dict[str, str]:
    return {"image": f"http://pictures.test/{COLOURS[number % 3]}{number}.png"}


def annotate(services: Services, label_config: str, names: tuple[str, ...]) -> None:
    """Annotate tasks of each colour with its name in results, and fit."""
    bodies = []
    for number in ANNOTATED:
        body = annotation(number, number, names[number % 3], number)
        body["project"]["label_config"] = label_config
        body["task"]["data"] = data(number)
        bodies.append(body)
    fit(services, *bodies)


def rename(services: Services, label_config: str) -> None:
    projects.upsert(services.store, PROJECT, label_config=label_config)
    fit(services)


def right_answers(services: Services, model_server: FakeModelServer, names: tuple[str, ...]) -> int:
    """On how many of the pictures that nobody annotated the head answers the name of its colour."""
    (problem,) = bind(str(project(services).label_config)).bindings
    file = head_file(services)
    right = 0
    for number in UNSEEN:
        question = problem.model_input(data(number))
        row = PredictRow(kind=FeaturesInput.kind, input=FeaturesInput.of(question).model_dump(mode="json"))
        shown = Example.of(question, model_server.features(row), None)
        answer: Any = model_server.answer(
            PredictRow(kind=question.kind, input=question.model_dump(mode="json"))
        ).output
        if file is not None:
            answer = answer_with_head(LinearHead.from_bytes(file), question, shown.features, shown.logits)
        else:
            answer = problem.output_type.model_validate(answer)
        (region,) = problem.prediction(answer, data(number)).regions
        right += region["value"]["choices"] == [names[number % 3]]
    return right


def test_choices_with_an_alias_keep_what_they_learned_whatever_their_names_and_order(
    services: Services, model_server: FakeModelServer
) -> None:
    aliases = ("q1", "q2", "q3")
    before = config('value="Good" alias="q1"', 'value="Worn" alias="q2"', 'value="Scrap" alias="q3"')
    projects.upsert(services.store, PROJECT, label_config=before)
    assert right_answers(services, model_server, aliases) == 10, "the base model takes all for the first"
    annotate(services, before, aliases)
    assert right_answers(services, model_server, aliases) == 30
    rename(
        services, config('value="Used" alias="q2"', 'value="Beyond repair" alias="q3"', 'value="New" alias="q1"')
    )
    assert right_answers(services, model_server, aliases) == 30


def test_choices_without_an_alias_keep_it_by_place_and_likeness(
    services: Services, model_server: FakeModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    before = config('value="scratched"', 'value="dented"', 'value="fine"')
    annotate(services, before, ("scratched", "dented", "fine"))
    with caplog.at_level(logging.INFO):
        rename(services, config('value="scratches"', 'value="dents"', 'value="fine"'))
    assert right_answers(services, model_server, ("scratches", "dents", "fine")) == 30
    assert "label 'scratched' of 'label' was renamed to 'scratches'" in caplog.text
    rename(services, config('value="scratches"', 'value="dents"', 'value="fine" alias="ok"'))
    assert right_answers(services, model_server, ("scratches", "dents", "ok")) == 30


def plan_of(services: Services) -> TrainingPlan:
    """What a run would learn from all annotations."""
    with services.store.read() as session:
        found = projects.get(session, PROJECT)
        rows = [session.get_one(Annotation, (PROJECT, number)) for number in ANNOTATED]
    bound = bind(str(found.label_config))
    return make_plan(bound.bindings[0], bound.config, rows, services.settings, 1, found.renamed_labels or {})


def test_a_run_learns_from_annotations_of_a_renamed_label(services: Services) -> None:
    annotate(services, config('value="scratched"', 'value="fine"'), ("scratched", "fine", "fine"))
    rename(services, config('value="scratches"', 'value="fine"'))
    plan = plan_of(services)
    examples = plan.train + plan.held_out
    assert plan.skipped == {}
    assert {example.task_id for example in examples if example.target.indices == (0,)} == {3, 6, 9, 12}


def test_another_label_in_the_place_of_a_used_one_does_not_inherit_its_annotations(services: Services) -> None:
    annotate(
        services, config('value="scratched"', 'value="dented"', 'value="fine"'), ("scratched", "dented", "fine")
    )
    rename(services, config('value="unclear"', 'value="dented"', 'value="fine"'))
    assert plan_of(services).skipped.keys() == {3, 6, 9, 12}
