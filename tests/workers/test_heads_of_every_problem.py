"""What annotators say of every kind of problem becomes a head, through the same job."""

from typing import Any

import pytest

from lorabel.database import projects
from lorabel.database.adapter_folders import HEAD_FILE, tag_folder
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.feature_contracts import HEADED
from lorabel.problems.base import Problem, Sample
from lorabel.problems.binding import problem_types
from lorabel.problems.ranking import Ranking
from tests.samples import binding_of
from tests.workers.events import PROJECT, annotation
from tests.workers.test_head_fitting import COLOURS, fit, is_due, project
from tests.workers.test_head_versions import services as services
from workers.services import Services

SAMPLES = [
    pytest.param(problem, sample, id=f"{problem.name} {index}")
    for problem in problem_types()
    if issubclass(problem.input_type, HEADED)  # only LoRA learns the others
    for index, sample in enumerate(problem.SAMPLES)
]
TASKS = 8


def submitted(sample: Sample, number: int) -> dict[str, Any]:
    """Every other task has the sample's result, the others the opposite. The contents differ a little."""
    body = annotation(number, number, "", number)
    body["project"]["label_config"] = sample.label_config
    body["task"]["data"] = {name: _numbered(value, number) for name, value in sample.data.items()}
    body["annotation"]["result"] = sample.result if number % 2 else sample.opposite
    return body


def _numbered(value: Any, number: int) -> Any:
    """Text with a colour at its end, which tells the answer; spans stay where they are."""
    if isinstance(value, str):
        shown = f"{COLOURS[number % 2]}{number}"
        return f"{value}?{shown}" if value.startswith(("http", "/")) else f"{value} {shown}"
    if isinstance(value, list):
        return [_numbered(item, number) for item in value]
    if isinstance(value, dict):
        return {name: _numbered(item, number) for name, item in value.items()}
    return value


@pytest.mark.parametrize(("problem", "sample"), SAMPLES)
def test_annotations_of_every_problem_become_a_head(
    services: Services, problem: type[Problem], sample: Sample
) -> None:
    fit(services, *(submitted(sample, number) for number in range(1, TASKS + 1)))
    assert not is_due(services)
    folder = services.adapter_folders.root / f"p{PROJECT}.h1"
    if problem is Ranking and not folder.exists():
        return  # the items of a task all show its colour, so nothing tells which is better
    assert project(services).served_version == "p1.v0.h1", list(folder.glob("*"))
    assert (folder / tag_folder(binding_of(problem, sample).from_name) / HEAD_FILE).exists()
    for path in folder.glob(f"*/{HEAD_FILE}"):
        assert LinearHead.from_bytes(path.read_bytes()).space == "fake one"
    with services.store.read() as session:
        assert projects.get(session, PROJECT).head_number == 1
