"""A new problem is one file, and a new family is one file; nothing else needs to be edited.

The plugin of tests/plugin is tried in two ways: as files added to our packages, and as an installed package.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "plugin"

# Trains the plugin's family on the plugin's problem and predicts with the new adapter; prints the figures as JSON.
SCRIPT = """
from lorabel.startup import garbage_collector_paused

with garbage_collector_paused():
    import torch
    from prometheus_client import CollectorRegistry

    from lorabel.database.adapter_folders import AdapterFolders
    from lorabel.families.cache import FeatureCache
    from lorabel.families.loading import family_for
    from lorabel.inference.messages import PredictRequest, PredictRow
    from lorabel.problems.binding import bind
    from lorabel.settings import Settings
    from model_server.adapters import AdapterBank
    from model_server.engine import Engine
    from model_server.family_pool import LoadedFamily, FamilyPool
    from model_server.files import Files
    from model_server.heads import Heads
    from model_server.metrics import Metrics
    from workers import evaluate, examples, lora

config = '<View><Chat name="t" value="$text"/><TextArea name="stars" toName="t"/></View>'
problem = next(binding for binding in bind(config).bindings if binding.from_name == "stars")
family_type = family_for(problem.model_input({"text": "!"}))
settings = Settings(data_dir=Path(sys.argv[1]))
family = family_type.load("toy", torch.device("cpu"), torch.float32, settings)
training_examples = [
    examples.TrainingExample((n,), n, problem.model_input({"text": "!" * (n % 5)}), float(n % 5), None, True)
    for n in range(40)
]
prepared, unreadable = examples.prepare(training_examples, family, lambda media: media, None)
recipe = lora.Recipe(4, 0.05, 200, 16, 200, 0, "float32")
adapter_folders = AdapterFolders(Path(sys.argv[1]) / "adapters")
with lora.adapted(family, training_examples[0].question, None, recipe) as model:
    with lora.with_live(model, None):
        before = evaluate.score(problem, family, prepared, 8).values["negative_error"]
    lora.fine_tune(family, model, prepared, recipe, lambda progress: None)
    after = evaluate.score(problem, family, prepared, 8).values["negative_error"]
    adapter_folders.write("p1.v1", lambda folder: model.save_pretrained(folder / "stars"))
loaded_family = LoadedFamily(family, AdapterBank(family, adapter_folders, 10**6), FeatureCache({}))
family_pool = FamilyPool(None, [loaded_family])
metrics = Metrics(CollectorRegistry())
heads = Heads(adapter_folders, metrics)
engine = Engine(family_pool, Files(None, 0), heads, metrics, max_batch=4, max_waiting=10)
question = problem.model_input({"text": "wow!!!"})
row = PredictRow(kind=type(question).kind, input=question.model_dump(), adapter="p1.v1/stars")
result = engine.submit(PredictRequest(rows=[row], timeout_s=10.0))[0].result()
engine.close()
region = problem.prediction(problem.output_type.model_validate(result.output), {}).regions[0]
print(json.dumps({"before": before, "after": after, "predicted": region["value"]["text"]}))
"""


# Come before SCRIPT.
ADDED_FILES = """
import json, sys
from pathlib import Path

import lorabel.families, lorabel.problems
lorabel.problems.__path__.append(str(Path(sys.argv[1]) / "problems"))
lorabel.families.__path__.append(str(Path(sys.argv[1]) / "families"))
"""

INSTALLED_PACKAGE = """
import json, sys
from pathlib import Path
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_problem_and_a_family_in_two_new_files_train_and_predict(tmp_path: Path) -> None:
    for folder, name in (("problems", "shouting"), ("families", "counter")):
        (tmp_path / folder).mkdir()
        code = (PACKAGE / "lorabel_shouting" / f"{name}.py").read_text()
        (tmp_path / folder / f"{name}.py").write_text(code.replace("lorabel_shouting.", "lorabel.problems."))
    check_training_and_prediction(ADDED_FILES, tmp_path, {})


@pytest.mark.slow
def test_a_problem_and_a_family_of_an_installed_package_train_and_predict(tmp_path: Path) -> None:
    """The wheel is built and unpacked as pip does; Lorabel finds the plugin by its entry points alone."""
    shutil.copytree(PACKAGE, tmp_path / "source")
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=tmp_path / "source", capture_output=True, text=True, timeout=100, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    check_training_and_prediction(INSTALLED_PACKAGE, tmp_path, {"PYTHONPATH": str(tmp_path / "installed")})


def check_training_and_prediction(imports: str, folder: Path, variables: dict[str, str]) -> None:
    command = [sys.executable, "-c", imports + SCRIPT, str(folder)]
    environment = {**os.environ, **variables}
    process = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert process.returncode == 0, process.stderr
    figures = json.loads(process.stdout.splitlines()[-1])
    assert figures["before"] < -1.0, "the untrained model must be wrong"
    assert figures["after"] > -0.3
    assert figures["predicted"] == ["3"]
