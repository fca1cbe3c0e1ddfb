"""What would be served of a label config: for people who think about connecting a project, or write its config."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import request

from backend.services import Services
from lorabel.contracts import Input
from lorabel.errors import LorabelError, ModelServerError, UnreadableError, cut
from lorabel.inference.messages import AnsweringFamily, FamilyQuestion
from lorabel.labeling.example_data import example_data
from lorabel.labeling.label_config import ObjectTag
from lorabel.labeling.task_content import MODALITIES
from lorabel.problems.base import Problem, TaskData
from lorabel.problems.binding import bind
from lorabel.problems.task_questions import build_input
from lorabel.settings import Settings

LONGEST_CONFIG = 500_000
EXAMPLE = """<View>
  <Image name="image" value="$image"/>
  <Choices name="animal" toName="image">
    <Choice value="Cat"/>
    <Choice value="Dog"/>
  </Choices>
</View>"""


@dataclass(frozen=True)
class ServedTag:
    """A control tag, or a group of them, that is served.

    Attributes:
        names: of the control tags.
        tags: their kinds, such as `Choices`.
        objects: the object tags that are read.
        problem: its name in docs/problems.md.
        before: what is predicted before anything was learned.
        learned: what is learned from annotations.
    """

    names: Sequence[str]
    tags: Sequence[str]
    objects: Sequence[str]
    problem: str
    before: str
    learned: str


@dataclass(frozen=True)
class UnservedTag:
    """A control tag that is left to people."""

    name: str
    tag: str
    reason: str


@dataclass(frozen=True)
class Served:
    """What is served of a label config. `fault`: why the label config cannot be read."""

    tags: Sequence[ServedTag] = ()
    unserved: Sequence[UnservedTag] = ()
    fault: str = ""


@dataclass(frozen=True)
class Trial:
    """A label config that was typed, and what would be served of it; None before one was.

    Attributes:
        families: who would answer each of the tags that are served; empty if that is not known.
        families_fault: why it is not known.
    """

    label_config: str
    served: Served | None
    families: Sequence[AnsweringFamily] = ()
    families_fault: str = ""


def read_trial(services: Services) -> Trial:
    """Read what was typed, and ask the model server who would answer."""
    if request.method == "GET":
        return Trial(EXAMPLE, None)
    label_config = request.form.get("label_config", "")
    if len(label_config) > LONGEST_CONFIG:
        fault = f"the label config has {len(label_config)} characters, expected at most {LONGEST_CONFIG}"
        return Trial(label_config[:LONGEST_CONFIG], Served(fault=fault))
    served = read_served(label_config)
    if not served.tags:
        return Trial(label_config, served)
    try:
        questions = read_questions(label_config, services.settings)
        # Thousands of control tags ask few kinds of questions.
        kinds = list(dict.fromkeys((each.kind, tuple(each.modalities)) for each in questions))
        asked = [FamilyQuestion(kind=kind, modalities=list(modalities)) for kind, modalities in kinds]
        answers = dict(zip(kinds, services.model_client.families(asked), strict=True))
        families = [answers[each.kind, tuple(each.modalities)] for each in questions]
    except ModelServerError as error:
        return Trial(label_config, served, families_fault=str(error))
    return Trial(label_config, served, families)


def read_questions(label_config: str, settings: Settings) -> list[FamilyQuestion]:
    """The kind of question of each tag that is served, in their order. Raises LabelConfigError."""
    bound = bind(label_config)
    controls = {control.name: control for control in bound.config.controls}
    data = example_data(bound.config)
    return [_question(binding, controls[binding.from_name].objects, data, settings) for binding in bound.bindings]


def _question(
    binding: Problem, objects: Sequence[ObjectTag], data: TaskData, settings: Settings
) -> FamilyQuestion:
    try:
        question: Input = build_input(binding, data, settings)
    except UnreadableError:
        # The example lacks something that the label config demands; what is read is known all the same.
        modalities = {MODALITIES[tag.tag] for tag in objects if tag.tag in MODALITIES}
        return FamilyQuestion(kind=binding.input_type.kind, modalities=sorted(modalities))
    return FamilyQuestion(kind=question.kind, modalities=sorted(question.modalities))


def read_served(label_config: str) -> Served:
    """What is served of a label config."""
    try:
        bound = bind(label_config)
    except LorabelError as error:
        return Served(fault=cut(str(error)))
    controls = {control.name: control for control in bound.config.controls}
    tags = []
    for binding in bound.bindings:
        control = controls[binding.from_name]
        shown = (*control.objects, *control.context)
        tags.append(
            ServedTag(
                binding.claims,
                [controls[name].tag for name in binding.claims],
                list(dict.fromkeys(f"{tag.tag} {tag.value}".strip() for tag in shown)),
                type(binding).name,
                binding.silence if binding.is_silent_until_taught else type(binding).zero_shot,
                type(binding).learns,
            )
        )
    unserved = [UnservedTag(each.control.name, each.control.tag, each.reason) for each in bound.unclaimed]
    return Served(tags, unserved)
