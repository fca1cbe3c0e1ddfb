"""Connections that send no whole request do not silence the backend; `tests/lorabel/http_server` has details."""

import pytest

from lorabel.settings import Settings
from tests.backend import requests
from tests.backend.test_gunicorn import gunicorn
from tests.half_open import KINDS, half_open

THREADS = 8


@pytest.mark.slow
def test_the_backend_answers_while_connections_are_half_open(settings: Settings) -> None:
    with gunicorn(settings, THREADS=str(THREADS)) as client:
        for kind in KINDS.values():
            with half_open(client.base_url.port or 0, kind, 2 * THREADS):
                assert client.get("/health").status_code == 200
                assert client.post("/webhook", json=requests.event("PROJECT_UPDATED")).status_code == 200
