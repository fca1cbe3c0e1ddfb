"""The model server as a process whose device is lost: it ends, and the process that replaces it answers."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS
from lorabel.errors import ModelServerError
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from tests import questions
from tests.questions import about_picture
from tests.servers import free_port
from tests.workers.pictures import data_url, pictures

START_TIMEOUT_S = 90.0
# Runs the real server, with a family that loses the device at its first batch, as CUDA reports it, and whose later
# batches all fail in this process. No test machine can be made to have that fault. The file tells the next process
# that it has happened.
SERVER = """
import sys
from pathlib import Path

from lorabel.startup import garbage_collector_paused

with garbage_collector_paused():
    from lorabel.families.dual_encoder import DualEncoder
    from model_server.__main__ import main

marker, predict, losses = Path(sys.argv[1]), DualEncoder.predict, []

def predict_or_lose_the_device(family, *arguments):
    if not losses and marker.exists():
        return predict(family, *arguments)
    losses.append("now")
    marker.touch()
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

DualEncoder.predict = predict_or_lose_the_device
main()
"""


@pytest.mark.slow
def test_after_its_device_is_lost_the_model_server_starts_anew_and_answers(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(model_server_url=f"http://127.0.0.1:{port}")
    environment = {
        "MODEL_SERVER_URL": settings.model_server_url,
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "DEVICE": "cpu",
        "DATA_DIR": str(tmp_path),
    }
    command = [sys.executable, "-c", SERVER, str(tmp_path / "lost")]
    row = questions.row(about_picture(data_url(pictures(1)[0]), tuple(COLOURS)))
    client = ModelClient(settings)
    with subprocess.Popen(command, env={**os.environ, **environment}) as server:
        try:
            wait_until_it_answers(client)
            (failed,) = client.predict([row], 30, project=1)
            assert failed.error is not None and "illegal memory access" in failed.error.reason
            assert not failed.error.is_permanent
            time.sleep(2)
            wait_until_it_answers(client)
            (result,) = client.predict([row], 30, project=1)
            assert result.output is not None
        finally:
            server.terminate()
            client.close()


def wait_until_it_answers(client: ModelClient) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.models()
        except ModelServerError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return
