"""docs/problems.md, from the problems and families themselves, and from label configs put to the test."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lorabel import problems as package
from lorabel.discovery import discover
from lorabel.families.loading import family_for
from lorabel.labeling.label_config import ControlTag
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import bind

PROBLEMS = discover(package, Problem)  # type: ignore[type-abstract]


@dataclass(frozen=True)
class Case:
    """Something that a label config may say, the control tag `label` with it, and what becomes of that."""

    what: str
    config: str
    note: str = ""


AB = '<Choice value="a"/><Choice value="b"/>'


def _choices(attributes: str = "", choices: str = AB, to: str = "image") -> str:
    return f'<Choices name="label" toName="{to}" {attributes}>{choices}</Choices>'


IMAGE = '<Image name="image" value="$image"/>'
KIND = '<Choices name="kind" toName="image"><Choice value="x"/><Choice value="y"/></Choices>'
CASES = (
    Case('`choice="multiple"`', IMAGE + _choices('choice="multiple"'), "each label that is likelier than not"),
    Case(
        '`required="true"`',
        IMAGE + _choices('required="true"'),
        "makes no difference",
    ),
    Case(
        "`alias`, `hint`, `prompt`, `predicted_values`",
        IMAGE + _choices(choices=f'<Choice value="C3" hint="a crack" predicted_values="gap,split"/>{AB}'),
        "a model reads `prompt`, else `hint`, `alias`, `value`, and what `predicted_values` names; results have "
        "the alias, else the value",
    ),
    Case(
        '`visibleWhen="choice-selected"`, `"choice-unselected"`, on it or on a view around it',
        IMAGE + KIND + _choices('visibleWhen="choice-selected" whenTagName="kind" whenChoiceValue="x"'),
        "predicted where its condition holds with what is predicted for the other tag; where it was hidden, an "
        "annotation teaches it nothing",
    ),
    Case('`visibleWhen="region-selected"`', IMAGE + _choices('visibleWhen="region-selected"')),
    Case('`perRegion="true"`', IMAGE + _choices('perRegion="true"')),
    Case('`perItem="true"`', IMAGE + _choices('perItem="true"')),
    Case(
        "`toName` with several objects of one kind",
        IMAGE + '<Image name="other" value="$other"/>' + _choices(to="image,other"),
        "choices are one question about all of them; `Rating`, `Number` and `Labels` are left to people then",
    ),
    Case(
        "several control tags",
        IMAGE + KIND + _choices(),
        "one call, one prediction; each learns by itself, and a version has an adapter for each",
    ),
)


def problems() -> str:
    return "\n".join(part for problem in PROBLEMS for part in _section(problem))


def attributes() -> str:
    return table(("in the label config", "what becomes of it", ""), [_row(case) for case in CASES])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _row(case: Case) -> tuple[str, str, str]:
    bound = bind(f"<View>{case.config}</View>")
    reasons = [one.reason for one in bound.unclaimed if one.control.name == "label"]
    is_served = any(binding.from_name == "label" for binding in bound.bindings)
    assert is_served != bool(reasons), case
    return case.what, "served" if is_served else "left to people", case.note or "".join(reasons)


def _section(problem: type[Problem]) -> Iterator[str]:
    families = sorted({_family(sample) for sample in problem.SAMPLES})
    yield f"### {problem.name}\n"
    yield f"{_first_paragraph(inspect.getmodule(problem).__doc__ or '')}\n"
    yield table(
        ("", ""),
        [
            ("control and object tags", ", ".join(sorted({_tags(sample) for sample in problem.SAMPLES}))),
            ("family", ", ".join(f"`{name}`" for name in families)),
            ("before training", problem.zero_shot),
            ("learns", problem.learns),
            ("primary figure", f"`{_primary(problem)}`"),
        ],
    )
    yield f"```xml\n{problem.SAMPLES[0].label_config}\n```\n"


def _family(sample: Sample) -> str:
    (binding,) = bind(sample.label_config).bindings
    return family_for(binding.model_input(sample.data)).name


def _tags(sample: Sample) -> str:
    (control,) = bind(sample.label_config).config.controls
    return f"`{control.tag}` on {' + '.join(f'`{tag}`' for tag in _shown(control))}"


def _shown(control: ControlTag) -> list[str]:
    return list(dict.fromkeys(tag.tag for tag in (*control.objects, *control.context)))


def _primary(problem: type[Problem]) -> str:
    sample = problem.SAMPLES[0]
    (binding,) = bind(sample.label_config).bindings
    target = binding.target(sample.result, sample.data)
    return binding.metrics([target], [binding.perfect_output(target)]).primary


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())
