"""A run in two processes of accelerate's launcher on the CPU (gloo), compared with the same run in one process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorabel.errors import LorabelError, SettingsError
from lorabel.families.dual_encoder import DualEncoder
from lorabel.settings import Settings
from tests.e2e.processes import wait_until
from tests.workers.test_lora import QUESTION, examples, recipe
from workers import launch, lora


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return DualEncoder.tiny(tmp_path_factory.mktemp("base"))


def train(source: str, folder: Path, processes: int, **changed: object) -> tuple[float, list[lora.Progress]]:
    settings = Settings(
        data_dir=folder,
        device="cpu",
        precision="float32",
        train_processes=processes,
        models={"dual_encoder": source},
    )
    family = DualEncoder.load(source, torch.device("cpu"), torch.float32, settings)
    steps: list[lora.Progress] = []
    changed_recipe = recipe(**changed)
    with lora.adapted(family, QUESTION, None, changed_recipe) as model:
        loss = launch.fine_tune(settings, family, model, examples(family), changed_recipe, steps.append)
        lora.save(model, folder / "adapter")
    return loss, steps


@pytest.mark.scale
def test_two_processes_make_the_same_adapter_as_one_process(source: str, tmp_path: Path) -> None:
    """With 7 examples per step the processes have 4 and 3 of them; each example must still weigh the same."""
    changes = {"batch": 7, "steps": 12, "learning_rate": 1e-3}
    alone, steps_alone = train(source, tmp_path / "one", 1, **changes)
    together, steps = train(source, tmp_path / "two", 2, **changes)
    assert [step.step for step in steps] == [step.step for step in steps_alone] == list(range(1, 13))
    assert steps[-1].loss < steps[0].loss
    for step, step_alone in zip(steps, steps_alone, strict=True):
        assert step.loss == pytest.approx(step_alone.loss, rel=1e-3)
    assert together == pytest.approx(alone, rel=1e-3)
    one, two = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-2, atol=1e-4)


@pytest.mark.scale
def test_two_processes_give_up_the_ranks_of_adalora_as_one_process(source: str, tmp_path: Path) -> None:
    changes = {"batch": 7, "steps": 12, "learning_rate": 1e-2, "kind": "adalora"}
    alone, _ = train(source, tmp_path / "one", 1, **changes)
    together, _ = train(source, tmp_path / "two", 2, **changes)
    assert together == pytest.approx(alone, rel=1e-2)
    ranks = []
    for name in ("one", "two"):
        file = load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        ranks.append(sum(len(weight) for key, weight in file.items() if key.endswith("lora_A")))
    layers = sum(key.endswith("lora_A") for key in file)
    assert ranks[0] == ranks[1] <= 4 * layers, "from rank 6 to rank 4 on average"


@pytest.mark.scale
def test_a_process_that_fails_fails_the_run_and_leaves_no_process(source: str, tmp_path: Path) -> None:
    with pytest.raises(LorabelError, match="ended with status 1"):
        train(source, tmp_path, 2, learning_rate="a word")
    assert _launched() == []


@pytest.mark.scale
def test_a_run_that_is_given_away_ends_its_processes(source: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, device="cpu", train_processes=2, models={"dual_encoder": source})
    family = DualEncoder.load(source, torch.device("cpu"), torch.float32, settings)
    changed_recipe = recipe(steps=10_000, patience=10_000, learning_rate=0.0)

    def give_away(progress: lora.Progress) -> None:
        raise LorabelError(f"given away at step {progress.step}")

    with (
        lora.adapted(family, QUESTION, None, changed_recipe) as model,
        pytest.raises(LorabelError, match="given away"),
    ):
        launch.fine_tune(settings, family, model, examples(family), changed_recipe, give_away)
    assert _launched() == []


@pytest.mark.scale
def test_a_killed_launcher_leaves_no_process(source: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, device="cpu", train_processes=2, models={"dual_encoder": source})
    family = DualEncoder.load(source, torch.device("cpu"), torch.float32, settings)
    changed_recipe = recipe(steps=100_000, patience=100_000, learning_rate=0.0)

    def kill_launcher(_: lora.Progress) -> None:
        for launcher in (pid for pid in _launched() if _parent(pid) == os.getpid()):
            os.kill(launcher, signal.SIGKILL)

    with (
        lora.adapted(family, QUESTION, None, changed_recipe) as model,
        pytest.raises(LorabelError, match="status -9"),
    ):
        launch.fine_tune(settings, family, model, examples(family), changed_recipe, kill_launcher)
    wait_until(lambda: not _launched(), 5, "they have ended")


@pytest.mark.scale
def test_the_processes_of_a_killed_worker_end_by_themselves(source: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.workers.test_launch import train\n"
        f"train({source!r}, Path({str(tmp_path)!r}), 2, steps=100_000, patience=100_000, learning_rate=0.0)"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    wait_until(lambda: len(_launched()) == 3, 120, "the launcher and two processes run")
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: not _launched(), 120, "they have ended")
    assert worker.returncode == -signal.SIGKILL


def test_a_device_with_a_gpu_number_is_refused_for_several_processes(source: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, device="cuda:1", train_processes=2)
    family = DualEncoder.load(source, torch.device("cpu"), torch.float32, settings)
    changed_recipe = recipe()
    with (
        lora.adapted(family, QUESTION, None, changed_recipe) as model,
        pytest.raises(SettingsError, match="TRAIN_PROCESSES=2"),
    ):
        launch.fine_tune(settings, family, model, examples(family), changed_recipe, lambda _: None)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _launched() -> list[int]:
    """Process ids of the launcher and of the processes that it started, on the whole machine."""
    process_ids = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if "workers.launched" in command:
            process_ids.append(int(folder.name))
    return process_ids
