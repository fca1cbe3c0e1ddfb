"""Two replicas of the model server that share one GPU, by what Ray is told: both compute on the CPU."""

from pathlib import Path

import httpx
import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed: make test-ray")

from lorabel.demo import MODEL_FOLDER
from tests.e2e.processes import wait_until
from tests.model_server.ray_cluster import cluster

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_two_replicas_have_half_of_the_only_gpu_each(tmp_path: Path) -> None:
    variables = {
        "DATA_DIR": str(tmp_path),
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "DEVICE": "auto",
        "REPLICA_GPUS": "0.5",
    }
    with cluster(tmp_path, variables, gpus=1) as running, httpx.Client(trust_env=False, timeout=60) as http:
        # With a GPU for each, Ray has no place for the second one.
        wait_until(lambda: len(running.replicas()) == 2, 120, "two replicas run")
        assert http.get(f"{running.url}/livez").status_code == 200
