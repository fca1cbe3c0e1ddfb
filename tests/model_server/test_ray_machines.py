"""One replica of the model server on each of two machines (network namespaces), then the cable is unplugged."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx
import pytest

pytest.importorskip("ray", reason="the extra `ray` is not installed: make test-ray")

from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS
from lorabel.inference.messages import PredictRequest, PredictResponse
from tests import questions
from tests.e2e.processes import wait_until
from tests.machines import Machine, NotPermittedError, machine
from tests.model_server.ray_cluster import Cluster, cluster
from tests.questions import about_picture
from tests.workers.pictures import data_url, pictures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

DRAWN = pictures(12)


@pytest.fixture
def other() -> Iterator[Machine]:
    try:
        with machine(9) as second_machine:
            yield second_machine
    except NotPermittedError as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture
def running(other: Machine, tmp_path: Path) -> Iterator[Cluster]:
    variables = {"DATA_DIR": str(tmp_path), "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}
    with cluster(tmp_path, variables, other) as running_cluster:
        yield running_cluster


def ask(http: httpx.Client, number: int) -> tuple[str, str]:
    """Ask for the colour of a picture; returns the predicted colour and the replica that answered.

    Every number is a project of its own, since all requests of one project on the base model go to one replica.
    """
    picture = DRAWN[number % len(DRAWN)]
    row = questions.row(about_picture(data_url(picture), tuple(COLOURS)))
    request = PredictRequest(rows=[row], timeout_s=120, project=number)
    answer = http.post("/v1/predict", content=request.model_dump_json())
    assert answer.status_code == 200, answer.text
    (result,) = PredictResponse.model_validate_json(answer.content).rows
    assert result.output is not None, result.error
    probabilities = result.output["probabilities"]
    return tuple(COLOURS)[probabilities.index(max(probabilities))], answer.headers["X-Replica"]


def test_both_machines_serve_and_one_goes_on_when_the_other_is_cut_off(running: Cluster, other: Machine) -> None:
    other_url = running.url.replace(other.host, other.address)
    with httpx.Client(timeout=130.0, trust_env=False, base_url=running.url) as http:
        numbers, replicas = count(), set[str]()
        wait_until(
            lambda: replicas.add(ask(http, next(numbers))[1]) or len(replicas) == 2, 120, "two replicas answer"
        )
        with httpx.Client(timeout=130.0, trust_env=False, base_url=other_url) as over_the_cable:
            expected = [ask(over_the_cable, i)[0] for i in range(len(DRAWN))]
        assert sum(colour == picture.colour for colour, picture in zip(expected, DRAWN, strict=True)) >= 10
        with ThreadPoolExecutor(6) as threads:
            futures = [threads.submit(ask, http, i) for i in range(200)]
            wait_until(lambda: sum(future.done() for future in futures) > 20, 60, "requests are being answered")
            other.unplug()
            answers = [future.result() for future in futures]
    assert [colour for colour, _ in answers] == [expected[i % len(DRAWN)] for i in range(200)]
