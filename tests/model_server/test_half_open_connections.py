"""Connections that send no whole request do not silence the model server, which has 256 threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from model_server.__main__ import THREADS
from tests import questions
from tests.half_open import KINDS, half_open
from tests.model_server.test_device_loss import wait_until_it_answers
from tests.questions import about_picture
from tests.servers import free_port
from tests.workers.pictures import data_url, pictures


@pytest.mark.slow
def test_the_model_server_answers_while_connections_are_half_open(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(model_server_url=f"http://127.0.0.1:{port}")
    environment = {
        "MODEL_SERVER_URL": settings.model_server_url,
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "DEVICE": "cpu",
        "DATA_DIR": str(tmp_path),
    }
    row = questions.row(about_picture(data_url(pictures(1)[0]), tuple(COLOURS)))
    client = ModelClient(settings)
    with subprocess.Popen([sys.executable, "-m", "model_server"], env={**os.environ, **environment}) as server:
        try:
            wait_until_it_answers(client)
            for kind in KINDS.values():
                client.close()
                with half_open(port, kind, THREADS + 8, byte_every_s=1.0):
                    (result,) = client.predict([row], 10, project=1)
                    assert result.output is not None
        finally:
            server.terminate()
            client.close()
