"""All processes of Lorabel speak TLS with each other, with PostgreSQL and with Redis, by one private authority."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from lorabel.network import tls_context
from tests.certificates import Authority, make_authority
from tests.e2e import lorabel_processes
from tests.e2e.label_studio_server import kill_group
from tests.e2e.lorabel_processes import PROGRAM, bare_environment
from tests.servers import MissingServerError, free_port, postgres_server, redis_server
from tests.skipped import skip_or_fail
from tests.workers.pictures import LABEL_CONFIG, data_url, pictures

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def variables(authority: Authority) -> Iterator[dict[str, str]]:
    """The environment of a Lorabel whose PostgreSQL and Redis are there; Redis has no port without TLS for it."""
    pem, tls_port = authority.certify(), free_port()
    files = (
        "--tls-cert-file",
        str(pem),
        "--tls-key-file",
        str(pem),
        "--tls-ca-cert-file",
        str(authority.certificate),
    )
    command = ("redis-server", "--tls-port", str(tls_port), "--tls-auth-clients", "no", *files)
    with ExitStack() as stack:
        try:
            postgres = stack.enter_context(postgres_server(tls=pem))
            stack.enter_context(redis_server(command))
        except MissingServerError as error:
            skip_or_fail(str(error))
        yield {
            "DATABASE_URL": f"{postgres.url()}?sslmode=verify-full&sslrootcert={authority.certificate}",
            "REDIS_URL": f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={authority.certificate}",
            "MODEL_SERVER_URL": f"https://127.0.0.1:{free_port()}",
            "TLS_CERTIFICATE": str(pem),
            "MODEL_SERVER_TLS_CERTIFICATE": str(pem),
            "SSL_CERT_FILE": str(authority.certificate),
        }


def test_pictures_are_predicted_and_doctor_finds_every_part(
    tmp_path: Path, authority: Authority, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    lorabel = lorabel_processes.start(tmp_path, variables)
    url = lorabel.url.replace("http:", "https:")
    try:
        assert f"backend at {url}" in lorabel.log.read_text()
        tasks = [{"id": 1, "data": {"image": data_url(next(iter(pictures(1))))}}]
        body = {"tasks": tasks, "label_config": LABEL_CONFIG, "project": "1.1"}
        with httpx.Client(base_url=url, verify=tls_context(), trust_env=False, timeout=60) as client:
            answer = client.post("/predict", json=body).raise_for_status().json()
        assert answer["results"][0]["result"][0]["from_name"]
        plain = httpx.get(f"{lorabel.url}/livez", trust_env=False)
        assert (plain.status_code, plain.text.split(":")[0]) == (400, "This port speaks TLS")
        environment = {**bare_environment(), **lorabel.environment}
        doctor = subprocess.run([PROGRAM, "doctor"], env=environment, capture_output=True, text=True, timeout=60)
        said = " ".join(doctor.stdout.split())
        # The project of the prediction is not connected, and nothing else is wrong.
        assert said.count("wrong") == 1 and "wrong project 1: Label Studio" in said, doctor.stdout
        for part in (f"backend: answers at {url}", "redis: answers at rediss://", "model server: cpu"):
            assert f"ok {part}" in said, doctor.stdout
        with psycopg.connect(variables["DATABASE_URL"]) as connection:
            clients = connection.execute(
                "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL"
            ).fetchall()
        assert clients and all(is_tls for (is_tls,) in clients)
    finally:
        kill_group(lorabel.process)
