"""Makes the tables of docs/problems.md from the problems and families, and by binding example label configs."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorabel.families.loading import family_for
from lorabel.labeling.label_config import RELATIONS_NAME, ControlTag, LabelConfig
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind, problem_types
from tests import label_studio_templates
from tests.label_studio_templates import Template
from tests.samples import binding_of

PROBLEMS = problem_types()


@dataclass(frozen=True)
class Case:
    """A row of the table of label config attributes.

    Args:
        description: the attribute or property, in Markdown.
        config: tags with this property; the control tag in question is named `label`.
        note: what the property means. Empty if the tag is not served: the reason is taken from the binding.
    """

    description: str
    config: str
    note: str = ""


TWO_CHOICES = '<Choice value="a"/><Choice value="b"/>'


def _choices(attributes: str = "", choices: str = TWO_CHOICES, to: str = "image") -> str:
    return f'<Choices name="label" toName="{to}" {attributes}>{choices}</Choices>'


IMAGE = '<Image name="image" value="$image"/>'
KIND = '<Choices name="kind" toName="image"><Choice value="x"/><Choice value="y"/></Choices>'
BOXES = '<RectangleLabels name="box" toName="image"><Label value="x"/></RectangleLabels>'
CASES = (
    Case(
        '`choice="multiple"`',
        IMAGE + _choices('choice="multiple"'),
        "every label with a probability of at least 0.5 is predicted",
    ),
    Case(
        '`smart="true"` on a `TextArea` beside another one',
        '<Text name="text" value="$text"/><TextArea name="ask" toName="text" smart="true"/>'
        '<TextArea name="label" toName="text"/>',
        "a [prompt box](written-answers.md): what is typed there is answered at once in the other",
    ),
    Case(
        '`extractive="true"` on a `TextArea` or `Labels` over a text',
        '<Text name="text" value="$text"/><TextArea name="label" toName="text" extractive="true"/>',
        "a model that writes answers with a span of the text, and reads the other texts of the task before it",
    ),
    Case(
        '`required="true"`',
        IMAGE + _choices('required="true"'),
        "has no effect on predictions",
    ),
    Case(
        "`alias`, `hint`, `prompt`, `predicted_values`",
        IMAGE + _choices(choices=f'<Choice value="C3" hint="a crack" predicted_values="gap,split"/>{TWO_CHOICES}'),
        "the model reads the first of `prompt`, `hint`, `alias` and `value` that is set, and each text of "
        "`predicted_values`; results contain the alias if there is one, else the value",
    ),
    Case(
        '`visibleWhen="choice-selected"`, `"choice-unselected"`, on the tag or on a view around it',
        IMAGE + KIND + _choices('visibleWhen="choice-selected" whenTagName="kind" whenChoiceValue="x"'),
        "predicted if the prediction for the other tag fulfils the condition; annotations in which the tag was "
        "hidden are not used to train it",
    ),
    Case('`visibleWhen="region-selected"`', IMAGE + _choices('visibleWhen="region-selected"')),
    Case('`perRegion="true"`', IMAGE + _choices('perRegion="true"')),
    Case(
        '`perRegion="true"` beside `RectangleLabels`, or another tag that draws boxes, ellipses or polygons',
        IMAGE + BOXES + _choices('perRegion="true"'),
        "predicted for each region that is predicted; learned from each region that people drew",
    ),
    Case(
        '`perRegion="true"` with `whenLabelValue`, `visibleWhen="region-selected"` or `"choice-selected"`',
        IMAGE + BOXES + _choices('perRegion="true" whenLabelValue="x"'),
        "predicted for the regions that fulfil the condition, and learned from them",
    ),
    Case('`perItem="true"`', IMAGE + _choices('perItem="true"')),
    Case("in a `<Repeater>`", f'{IMAGE}<Repeater on="$items">{_choices()}</Repeater>'),
    Case(
        "`value` with a path or a text: `$chat[0].text`, `$title by $author`",
        '<Text name="text" value="$title by $author"/>' + _choices(to="text"),
        "read as the editor shows it; a number, a list or a boolean as the text that the editor makes of it",
    ),
    Case(
        '`value` without a variable: `value="Read this."`',
        '<Text name="text" value="Read"/>' + _choices(to="text"),
    ),
    Case(
        "`<Image>` with `valueList`, or a list under its `value`",
        '<Image name="image" valueList="$pages"/>' + _choices(),
        "the control tag is about all pictures together",
    ),
    Case(
        "names of tags and attributes in any case: `valuetype`, `perregion`",
        '<IMAGE NAME="image" Value="$image"/>' + _choices(),
        "as in the editor",
    ),
    Case(
        "`toName` with several objects of one kind",
        IMAGE + '<Image name="other" value="$other"/>' + _choices(to="image,other"),
        "`Choices` are predicted for all objects together; `Rating`, `Number` and `Labels` are left to people",
    ),
    Case(
        "several control tags",
        IMAGE + KIND + _choices(),
        "all are predicted in one call; each is trained separately, and a version has one adapter per control tag",
    ),
)


def problems() -> str:
    """Return a section for each problem, in Markdown."""
    return "\n".join(part for problem in PROBLEMS for part in _section(problem))


def attributes() -> str:
    """Return the table of what a label config may contain, in Markdown."""
    return table(("in the label config", "served or left to people", "details"), [_row(case) for case in CASES])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; `|` in cells is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _row(case: Case) -> tuple[str, str, str]:
    bound = bind(f"<View>{case.config}</View>")
    reasons = [tag.reason for tag in bound.unclaimed if tag.control.name == "label"]
    is_served = any(binding.from_name == "label" for binding in bound.bindings)
    assert is_served != bool(reasons), case
    return case.description, "served" if is_served else "left to people", case.note or "".join(reasons)


def _section(problem: type[Problem]) -> Iterator[str]:
    families = sorted({_family(problem, sample) for sample in problem.SAMPLES})
    yield f"### {problem.name}\n"
    yield f"{_first_paragraph(inspect.getmodule(problem).__doc__ or '')}\n"
    yield table(
        ("", ""),
        [
            ("control and object tags", ", ".join(sorted({_tags(problem, sample) for sample in problem.SAMPLES}))),
            ("family", ", ".join(families)),
            ("before training", problem.zero_shot),
            ("learned from annotations", problem.learns),
            ("primary metric", f"`{_primary(problem)}`"),
        ],
    )
    yield f"```xml\n{problem.SAMPLES[0].label_config}\n```\n"


def _family(problem: type[Problem], sample: Sample) -> str:
    family = family_for(binding_of(problem, sample).model_input(sample.data))
    return ", then ".join(f"`{part.name}`" for part in family.part_types or (family,))


def _tags(problem: type[Problem], sample: Sample) -> str:
    bound, binding = bind(sample.label_config), binding_of(problem, sample)
    control = next(control for control in bound.config.controls if control.name == binding.from_name)
    return f"{_group(binding, bound.config)} on {' + '.join(f'`{tag}`' for tag in _shown(control))}"


def _group(binding: Problem, config: LabelConfig) -> str:
    """The control tags that a binding serves."""
    tags = {control.name: control.tag for control in config.controls}
    claimed = " + ".join(f"`{tags[name]}`" for name in binding.claims)
    is_asked_of_each = binding.is_per_region and RELATIONS_NAME not in binding.claims
    return f"{claimed} with `perRegion`" if is_asked_of_each else claimed


def _shown(control: ControlTag) -> list[str]:
    return list(dict.fromkeys(tag.tag for tag in (*control.objects, *control.context)))


def _primary(problem: type[Problem]) -> str:
    sample = problem.SAMPLES[0]
    binding = binding_of(problem, sample)
    target = binding.target(sample.result, sample.data)
    return binding.metrics([target], [binding.perfect_output(target)]).primary


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def templates() -> str:
    """Return the table of Label Studio's templates, in Markdown."""
    rows = [_template_row(template) for template in label_studio_templates.read()]
    return table(("template", "served", "left to people"), rows)


def _template_row(template: Template) -> tuple[str, str, str]:
    bound = bind(template.config)
    served = [f"{_group(binding, bound.config)}: {type(binding).name}" for binding in bound.bindings]
    unserved = [f"`{tag.control.tag}`: {tag.reason}" for tag in bound.unclaimed]
    return f"{template.group}: {template.title}", _lines(served), _lines(unserved)


def _lines(parts: Sequence[str]) -> str:
    return "<br>".join(dict.fromkeys(parts)) or "-"
