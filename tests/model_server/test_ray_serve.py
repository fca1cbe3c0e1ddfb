"""Two replicas of the model server on a real Ray cluster, one of them killed under load.

The reference is the single model server (`single`) with the same settings, in this process.
"""

import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from flask.testing import FlaskClient

pytest.importorskip("ray", reason="the extra `ray` is not installed: make test-ray")

import torch

from lorabel.database.adapter_folders import AdapterFolders
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS
from lorabel.families.dual_encoder import DualEncoder
from lorabel.inference.messages import ModelsResponse, PredictRequest, PredictResponse, PredictRow
from lorabel.settings import Settings
from model_server.app import create_app
from tests import questions
from tests.e2e.processes import wait_until
from tests.model_server.ray_cluster import Cluster, cluster
from tests.model_server.slow_pictures import slow_pictures
from tests.model_server.test_adapters import save_random_adapter
from tests.questions import about_picture
from tests.workers.pictures import data_url, pictures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

SOURCE = f"local-dir:{MODEL_FOLDER}"
ADAPTERS = [f"p{i}.v1/label" for i in range(1, 9)]
NOT_PRELOADED = [f"p{i}.v1/label" for i in range(9, 19)]
AUTH = ("lorabel", "pass:word")
DRAWN = pictures(20)
MAX_WAITING = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA_DIR with random adapters, which change the answers."""
    folder = tmp_path_factory.mktemp("data")
    family = DualEncoder.load(SOURCE, torch.device("cpu"), torch.float32, Settings())
    for name in (*ADAPTERS, *NOT_PRELOADED):
        save_random_adapter(family, AdapterFolders(folder / "adapters"), name.partition("/")[0], 4)
    return folder


@pytest.fixture(scope="module")
def slow() -> Iterator[str]:
    with slow_pictures() as url:
        yield url


@pytest.fixture(scope="module")
def running(data: Path, slow: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    variables = {
        "DATA_DIR": str(data),
        "MODEL_DUAL_ENCODER": SOURCE,
        "MEDIA_ALLOWED_HOSTS": slow.removeprefix("http://"),
        "BASIC_AUTH_USER": AUTH[0],
        "BASIC_AUTH_PASS": AUTH[1],
        "MAX_WAITING": str(MAX_WAITING),
        "MAX_REQUEST_MB": "1",
    }
    with cluster(tmp_path_factory.mktemp("ray"), variables) as running_cluster:
        yield running_cluster


@pytest.fixture(scope="module")
def single(data: Path) -> Iterator[FlaskClient]:
    settings = Settings(data_dir=data, models={"dual_encoder": SOURCE}, device="cpu", precision="float32")
    app = create_app(settings)
    yield app.test_client()
    app.extensions["engine"].close()


@pytest.fixture(scope="module")
def expected(single: FlaskClient) -> dict[tuple[int, str | None], list[float]]:
    """(picture, adapter) -> the probabilities that the single model server computes."""
    cases = [(i, adapter) for adapter in (None, *ADAPTERS) for i in range(len(DRAWN))]
    rows = [row(i, adapter) for i, adapter in cases]
    answer = single.post("/v1/predict", data=PredictRequest(rows=rows, timeout_s=120).model_dump_json())
    return dict(zip(cases, probabilities(PredictResponse.model_validate_json(answer.data)), strict=True))


@pytest.fixture
def http(running: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, auth=AUTH, timeout=90.0, trust_env=False) as client:
        yield client


@pytest.fixture(autouse=True)
def both_replicas_run(running: Cluster, http: httpx.Client) -> None:
    def both_answer() -> bool:
        names = set(re.findall(r'replica="(\w+)"', http.get("/metrics").text))
        return len(names) == 2 and names == set(running.replicas())

    wait_until(both_answer, 180, "two replicas answer")


def row(picture: int, adapter: str | None, url: str | None = None) -> PredictRow:
    return questions.row(about_picture(url or data_url(DRAWN[picture]), tuple(COLOURS)), adapter=adapter)


def probabilities(answer: PredictResponse) -> list[list[float]]:
    assert all(result.error is None for result in answer.rows), answer
    return [list(result.output["probabilities"]) for result in answer.rows if result.output is not None]


def ask(http: httpx.Client, rows: list[PredictRow], project: int = 0) -> httpx.Response:
    request = PredictRequest(rows=rows, timeout_s=60, project=project)
    return http.post("/v1/predict", content=request.model_dump_json())


def answered(answer: httpx.Response) -> list[list[float]]:
    """The probabilities of each row of an answer that must have no errors."""
    assert answer.status_code == 200, answer.text
    return probabilities(PredictResponse.model_validate_json(answer.content))


def like(shares: list[float]) -> object:
    """Compares relatively, also probabilities near 0, since another adapter changes these by a multiple."""
    return pytest.approx(shares, rel=1e-2, abs=1e-15)


def test_predictions_equal_those_of_the_single_model_server(
    http: httpx.Client, expected: dict[tuple[int, str | None], list[float]]
) -> None:
    for adapter in (None, *ADAPTERS[:3]):
        rows = answered(ask(http, [row(i, adapter) for i in range(len(DRAWN))]))
        for i, shares in enumerate(rows):
            assert shares == like(expected[i, adapter])
    assert expected[0, None] != like(expected[0, ADAPTERS[0]]) != expected[0, ADAPTERS[1]]


def test_rows_of_several_projects_may_be_in_one_request(
    http: httpx.Client, expected: dict[tuple[int, str | None], list[float]]
) -> None:
    cases = [(i, adapter) for i, adapter in enumerate([None, *ADAPTERS[:4], None])]
    rows = answered(ask(http, [row(i, adapter) for i, adapter in cases]))
    for case, shares in zip(cases, rows, strict=True):
        assert shares == like(expected[case])


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/predict", "{}", 400),
        ("POST", "/v1/predict", "", 400),
        ("POST", "/v1/preload", "{}", 400),
        ("POST", "/v1/preload", '{"adapters": ["p9.v9/label"]}', 404),
        ("POST", "/v1/preload", '{"adapters": ["a\\u0000x"]}', 404),
        ("POST", "/v1/preload", '{"adapters": []}', 200),
        ("GET", "/nowhere", "", 404),
        ("GET", "/v1/predict", "", 405),
        ("GET", "/health", "", 200),
    ],
)
def test_errors_are_those_of_the_single_model_server(
    http: httpx.Client, single: FlaskClient, method: str, path: str, body: str, status: int
) -> None:
    answer, expected = (http.request(method, path, content=body), single.open(path, method=method, data=body))
    assert (answer.status_code, expected.status_code) == (status, status)
    assert answer.json() == expected.json


def test_a_request_that_is_too_large_is_answered_413(http: httpx.Client) -> None:
    assert http.post("/v1/predict", content=b"x" * 2**21).status_code == 413


def test_the_same_paths_need_the_password_as_at_the_single_model_server(running: Cluster) -> None:
    with httpx.Client(base_url=running.url, timeout=30.0, trust_env=False) as client:
        assert client.get("/livez").status_code == 200
        for path in ("/health", "/v1/models", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert client.post("/v1/predict", content="{}").status_code == 401


def test_requests_go_to_the_replica_that_holds_their_adapter(http: httpx.Client, running: Cluster) -> None:
    """Each adapter that was not preloaded is loaded at one replica only, though requests could reach both."""
    homes = {}
    for adapter in NOT_PRELOADED:
        names = {ask(http, [row(i, adapter)]).headers["X-Replica"] for i in range(4)}
        assert len(names) == 1, f"{adapter} was computed at {names}"
        (homes[adapter],) = names
    both = set(running.replicas())
    assert set(homes.values()) == both, "each replica is the home of some adapters"
    answer = http.get("/v1/models")
    assert set(NOT_PRELOADED) <= set(ModelsResponse.model_validate_json(answer.content).adapters)

    def holders() -> dict[str, set[str]]:
        """Adapter -> the replicas that have it."""
        adapters = running.adapters(answer.request.headers["Authorization"])
        return {name: {replica for replica in adapters if name in adapters[replica]} for name in NOT_PRELOADED}

    assert holders() == {name: {homes[name]} for name in NOT_PRELOADED}
    preloaded = NOT_PRELOADED[:3]
    assert http.post("/v1/preload", json={"adapters": preloaded}).status_code == 200
    assert holders() == {name: both if name in preloaded else {homes[name]} for name in NOT_PRELOADED}


def test_requests_on_the_base_model_go_to_the_home_of_their_project(http: httpx.Client, running: Cluster) -> None:
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda i: ask(http, [row(i % 20, None)], project=i % 12), range(60)))
    homes = [answer.headers["X-Replica"] for answer in answers]
    assert homes == homes[:12] * 5
    assert set(homes) == set(running.replicas())


def test_rows_are_cancelled_when_the_client_closes_its_connection(http: httpx.Client, slow: str) -> None:
    def cancelled() -> int:
        counts = re.findall(r"lorabel_rows_total\{.*outcome=\"cancelled\".*\} (\d+)", http.get("/metrics").text)
        return sum(map(int, counts))

    before = cancelled()
    request = PredictRequest(rows=[row(i, ADAPTERS[0], f"{slow}/20000/{i}.png") for i in range(3)], timeout_s=60)
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/predict", content=request.model_dump_json(), timeout=2.0)
    wait_until(lambda: cancelled() == before + 3, 10, "the rows are cancelled")


def test_an_invalid_adapter_name_is_an_error_of_its_row(http: httpx.Client, single: FlaskClient) -> None:
    body = PredictRequest(rows=[row(0, "a\0x"), row(0, None)], timeout_s=60).model_dump_json()
    answer, expected = http.post("/v1/predict", content=body), single.post("/v1/predict", data=body)
    rows = PredictResponse.model_validate_json(answer.content).rows
    expected_rows = PredictResponse.model_validate_json(expected.data).rows
    assert rows[0] == expected_rows[0] and rows[0].error is not None
    assert rows[1].output is not None


def test_a_project_with_more_than_one_replicas_share_uses_both(http: httpx.Client, slow: str) -> None:
    with ThreadPoolExecutor(20) as threads:
        rows = [row(i, ADAPTERS[0], f"{slow}/1500/{i}.png") for i in range(20)]
        answers = list(threads.map(lambda predict_row: ask(http, [predict_row]), rows))
    assert all(answer.status_code == 200 for answer in answers)
    assert len({answer.headers["X-Replica"] for answer in answers}) == 2


def test_metrics_have_a_label_for_the_replica(http: httpx.Client, running: Cluster) -> None:
    text = http.get("/metrics").text
    for name in running.replicas():
        assert f'replica="{name}"' in text


def test_when_every_replica_is_full_the_answer_is_503_until_rows_are_answered(
    http: httpx.Client, slow: str
) -> None:
    """Each request fills a replica; both replicas are tried before the answer is 503."""
    rows = [row(i % 20, ADAPTERS[0], f"{slow}/2000/{i % 20}.png") for i in range(MAX_WAITING)]
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: ask(http, rows), range(6)))
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {200, 503} and statuses[200] >= 2
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 503)
    assert ask(http, [row(0, ADAPTERS[0])]).status_code == 200


def test_requests_of_a_killed_replica_are_answered_by_the_other(
    http: httpx.Client, running: Cluster, slow: str, expected: dict[tuple[int, str | None], list[float]]
) -> None:
    adapter = ADAPTERS[5]
    home = ask(http, [row(0, adapter)]).headers["X-Replica"]
    with ThreadPoolExecutor(6) as threads:
        futures = [threads.submit(ask, http, [row(i, adapter, f"{slow}/3000/{i}.png")]) for i in range(6)]
        time.sleep(1.5)
        assert not any(future.done() for future in futures)
        running.kill(home)
        for i, future in enumerate(futures):
            answer = future.result()
            assert answered(answer)[0] == like(expected[i, adapter])
            assert answer.headers["X-Replica"] != home


def test_under_load_no_request_is_lost_when_a_replica_is_killed(
    http: httpx.Client, running: Cluster, slow: str, expected: dict[tuple[int, str | None], list[float]]
) -> None:
    cases = [(i % 20, (None, *ADAPTERS)[i % 9]) for i in range(400)]
    before = running.replicas()
    done: list[int] = []

    def send(number: int) -> httpx.Response:
        picture, adapter = cases[number]
        answer = ask(http, [row(picture, adapter, f"{slow}/200/{picture}.png")])
        done.append(number)
        return answer

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(send, number) for number in range(len(cases))]
        wait_until(lambda: len(done) > 100, 60, "requests are being answered")
        running.kill(min(before))
        answers = [future.result() for future in futures]
    for case, answer in zip(cases, answers, strict=True):
        assert answered(answer)[0] == like(expected[case])
    assert min(before) in {answer.headers["X-Replica"] for answer in answers}


def test_an_update_under_load_loses_no_request_and_replaces_every_replica(
    http: httpx.Client, running: Cluster, expected: dict[tuple[int, str | None], list[float]]
) -> None:
    before = set(running.replicas())
    cases = [(i % 20, (None, *ADAPTERS)[i % 9]) for i in range(10_000)]
    is_over: list[bool] = []

    def send_until_over(sender: int) -> int:
        """One of three senders; returns how many requests it sent."""
        sent = 0
        for case in cases[sender::3]:
            if is_over:
                break
            assert answered(ask(http, [row(*case)]))[0] == like(expected[case])
            sent += 1
            time.sleep(0.05)
        return sent

    with ThreadPoolExecutor(3) as threads:
        futures = [threads.submit(send_until_over, sender) for sender in range(3)]
        running.deploy(ADAPTER_MEMORY_MB="256")
        wait_until(lambda: before.isdisjoint(running.replicas()), 120, "the old replicas have left")
        is_over.append(True)
        assert sum(future.result() for future in futures) > 50
