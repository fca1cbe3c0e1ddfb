"""The promise of the house: a problem is one file, a family is one file, and nothing else is edited."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROBLEM = '''
"""A toy: `<Rating>` over `<Text>`: how many exclamation marks does the text have?"""
from dataclasses import dataclass
from typing import ClassVar

from lorabel.contracts import Contract, Input
from lorabel.problems import Metrics, Prediction, Problem, Sample


class Words(Input):
    kind: ClassVar[str] = "words"
    text: str


class Stars(Contract):
    kind: ClassVar[str] = "stars"
    number: float


@dataclass(frozen=True)
class Shouting(Problem):
    name: ClassVar = "shouting"
    input_type: ClassVar = Words
    output_type: ClassVar = Stars
    SAMPLES: ClassVar = (Sample(
        '<View><Text name="t" value="$text"/><Rating name="stars" toName="t"/></View>',
        {"text": "hey!"},
        [{"from_name": "stars", "to_name": "t", "type": "rating", "value": {"rating": 1}}],
        [],
    ),)
    data_key: str = ""

    @classmethod
    def match(cls, control):
        if control.tag != "Rating" or control.objects[0].tag != "Text":
            return None
        return cls(control.name, control.objects[0].name, control.objects[0].data_key)

    def model_input(self, data):
        return Words(text=data[self.data_key])

    def prediction(self, output, data):
        value = {"rating": round(output.number)}
        region = {"from_name": self.from_name, "to_name": self.to_name, "type": "rating", "value": value}
        return Prediction([region], 1.0)

    def target(self, result, data):
        return float(result[0]["value"]["rating"])

    def perfect_output(self, target):
        return Stars(number=target)

    def metrics(self, targets, outputs):
        errors = [abs(t - o.number) for t, o in zip(targets, outputs)]
        return Metrics("negative_error", {"tasks": len(targets), "negative_error": -sum(errors) / len(errors)})
'''

FAMILY = '''
"""A toy: a linear model of the number of exclamation marks."""
import torch
from torch import nn

from lorabel.families import Family
from lorabel.problems.shouting import Stars, Words


class Counter(Family):
    name = "counter"
    inputs = (Words,)
    modalities = frozenset()
    default_source = "toy"

    def __init__(self, source, device, dtype):
        torch.manual_seed(0)
        self.source, self.device, self.dtype = source, device, dtype
        self.module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1)).requires_grad_(False)

    @classmethod
    def load(cls, source, device, dtype, settings):
        return cls(source, device, dtype)

    @classmethod
    def tiny(cls, folder):
        return "toy"

    def prepare(self, question, fetch):
        return torch.tensor([float(question.text.count("!"))])

    def augment(self, examples, generator):
        return examples

    def predict(self, examples, adapters, bank, memo):
        with torch.inference_mode(), bank.rows(adapters):
            return [Stars(number=float(n)) for n in self.module(torch.stack(list(examples)))]

    def loss(self, examples, targets):
        return (self.module(torch.stack(list(examples)))[:, 0] - torch.tensor(targets)).square()
'''

SCRIPT = """
import json, sys
from pathlib import Path

import lorabel.families, lorabel.problems
lorabel.problems.__path__.append(str(Path(sys.argv[1]) / "problems"))
lorabel.families.__path__.append(str(Path(sys.argv[1]) / "families"))

import torch
from prometheus_client import CollectorRegistry

from lorabel.families import family_for
from lorabel.memo import Memo
from lorabel.messages import PredictRequest, PredictRow
from lorabel.problems import bind
from lorabel.registry import Registry
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from model_server.engine import Engine
from model_server.files import Files
from model_server.metrics import Metrics
from model_server.stations import Station, Stations
from workers import evaluate, examples, lora

config = '<View><Text name="t" value="$text"/><Rating name="stars" toName="t"/></View>'
(problem,) = bind(config).bindings
kind = family_for(problem.model_input({"text": "!"}))
settings = Settings(data_dir=Path(sys.argv[1]))
family = kind.load("toy", torch.device("cpu"), torch.float32, settings)
lessons = [
    examples.Lesson((n,), n, problem.model_input({"text": "!" * (n % 5)}), float(n % 5), None, True)
    for n in range(40)
]
read, unread = examples.read(lessons, family, lambda media: media, None)
recipe = lora.Recipe(4, 0.05, 200, 16, 200, 0, "float32", "none")
registry = Registry(Path(sys.argv[1]) / "adapters")
with lora.adapted(family, lessons[0].question, None, recipe) as model:
    with lora.with_live(model):
        before = evaluate.score(problem, family, read, 8).values["negative_error"]
    lora.fine_tune(family, model, read, recipe, "toy", Path(sys.argv[1]), lambda progress: None)
    after = evaluate.score(problem, family, read, 8).values["negative_error"]
    registry.write("p1.v1", lambda folder: model.save_pretrained(folder / "stars"))
station = Station(family, AdapterBank(family, registry, 10**6), Memo({}))
stations = Stations(None, [station])
engine = Engine(stations, Files(None, 0), Metrics(CollectorRegistry()), max_batch=4, max_waiting=10)
question = problem.model_input({"text": "wow!!!"})
row = PredictRow(kind=type(question).kind, input=question.model_dump(), adapter="p1.v1/stars")
result = engine.submit(PredictRequest(rows=[row], timeout_s=10.0))[0].result()
engine.close()
region = problem.prediction(problem.output_type.model_validate(result.output), {}).regions[0]
print(json.dumps({"before": before, "after": after, "rating": region["value"]["rating"]}))
"""


@pytest.mark.slow
def test_a_problem_and_a_family_from_two_new_files_predict_and_train(tmp_path: Path) -> None:
    for folder, name, code in (("problems", "shouting", PROBLEM), ("families", "counter", FAMILY)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(textwrap.dedent(code))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] < -1.0, "untrained it must be wrong"
    assert found["after"] > -0.3
    assert found["rating"] == 3
