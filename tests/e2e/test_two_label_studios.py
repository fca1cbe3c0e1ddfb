"""Two real Label Studios, each with a project 1, on one `lorabel up`; then one of them is reset."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from lorabel.commands.connect import Connection, connect
from lorabel.commands.doctor import examine
from lorabel.database.project_keys import LabelStudioId
from lorabel.database.projects import FIRST_OWN_ID
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Project
from lorabel.database.versions import without_heads
from lorabel.demo.installation import PRIVATE_ADDRESSES
from lorabel.demo.predicting_and_training import predict
from lorabel.label_studio.client import LabelStudio
from lorabel.labeling.regions import choices
from tests.e2e.label_studio_server import Server, kill_group
from tests.e2e.lorabel_processes import Lorabel
from tests.e2e.processes import wait_until
from tests.workers.pictures import data_url, pictures
from workers.reconcile import reconcile
from workers.services import Services

pytestmark = [pytest.mark.e2e, pytest.mark.long]

NUMBER = LabelStudioId(1)
TASKS, ANNOTATED = 60, 40
TIMEOUT_S = 240.0
EVENTS_TIMEOUT_S = 60.0
NEVER = str(10**6)


@dataclass(frozen=True)
class Labels:
    """A label config with one Choices tag, and the choice that it gives to each fill of a picture."""

    tag: str
    by_fill: dict[str, str]

    @property
    def config(self) -> str:
        values = "".join(f'<Choice value="{name}"/>' for name in dict.fromkeys(self.by_fill.values()))
        image = '<Image name="image" value="$image"/>'
        return f'<View>{image}<Choices name="{self.tag}" toName="image">{values}</Choices></View>'


GRADES = Labels("grade", {"solid": "Grade A", "striped": "Grade B", "outlined": "Grade C"})
VERDICTS = Labels("verdict", {"solid": "fine", "striped": "poor", "outlined": "poor"})
SIDES = Labels("side", {"solid": "left", "striped": "right", "outlined": "right"})


@dataclass(frozen=True)
class Site:
    """A Label Studio with a project 1.

    Attributes:
        project_id: the project's id in Lorabel.
        seed: of the project's pictures.
    """

    server: Server
    client: LabelStudio
    labels: Labels
    seed: int
    connection: Connection

    @property
    def project_id(self) -> int:
        return self.connection.project_id

    def finding(self, step: str) -> str:
        return next(done.finding for done in self.connection.steps if done.name == step)

    def shown(self, only_ids: list[int] | None = None) -> dict[int, tuple[str, str]]:
        """Task id -> version and choice of the newest prediction, after "Retrieve Predictions"."""
        ids = only_ids or self.task_ids()
        newest = predict(self.client, NUMBER, ids)
        return {
            task_id: (
                without_heads(newest[task_id]["model_version"]),
                _choice(newest[task_id]["result"], self.labels.tag),
            )
            for task_id in ids
        }

    def version(self) -> str:
        """The version that Label Studio shows for the backend, after it has asked the backend for it."""
        (backend,) = self.client.call("GET", "/api/ml/", params={"project": NUMBER})
        return without_heads(str(backend["model_version"]))

    def task_ids(self) -> list[int]:
        return [task.task_id for task in self.client.tasks(NUMBER)]

    def answers(self) -> dict[int, str]:
        """Task id -> the right choice."""
        fills = [picture.fill for picture in pictures(TASKS, self.seed)]
        return dict(zip(self.task_ids(), [self.labels.by_fill[fill] for fill in fills], strict=True))

    def annotate(self, task_id: int, choice: str) -> None:
        result = [choices(self.labels.tag, "image", [choice])]
        self.client.call("POST", f"/api/tasks/{task_id}/annotations/", json={"result": result})

    def annotations(self) -> dict[int, str]:
        """Annotation id -> its choice, as Label Studio has it."""
        return {
            int(annotation["id"]): _choice(annotation["result"], self.labels.tag)
            for task in self.client.annotated_tasks(NUMBER)
            for annotation in task.annotations
        }


def _choice(result: list[dict[str, Any]], tag: str) -> str:
    (region,) = result
    assert region["from_name"] == tag
    return str(region["value"]["choices"][0])


def _make_site(lorabel: Lorabel, server: Server, client: LabelStudio, labels: Labels, seed: int) -> Site:
    """Make project 1 with its tasks, and connect it."""
    settings = {"title": labels.tag, "label_config": labels.config, "show_collab_predictions": True}
    assert client.call("POST", "/api/projects/", json=settings)["id"] == NUMBER
    data = [{"image": data_url(picture)} for picture in pictures(TASKS, seed)]
    client.call("POST", f"/api/projects/{NUMBER}/import", json=data, timeout_s=60.0)
    connection = connect(lorabel.settings, server.url, server.token, NUMBER)
    assert connection.is_complete, connection.steps
    return Site(server, client, labels, seed, connection)


@pytest.fixture(scope="module")
def lorabel(start_lorabel: Callable[..., Lorabel]) -> Lorabel:
    """It trains on request only."""
    return start_lorabel({"TRAIN_AFTER_ANNOTATIONS": NEVER, "TRAIN_MIN_ANNOTATIONS": NEVER})


@pytest.fixture(scope="module")
def services(lorabel: Lorabel) -> Iterator[Services]:
    services = Services.open(lorabel.settings)
    yield services
    services.close()


def stored(store: Store, project_id: int, tag: str) -> dict[int, str]:
    """Annotation id -> its choice, of the annotations that Lorabel has and that are not deleted."""
    with store.read() as session:
        rows = session.scalars(
            select(Annotation).where(Annotation.project_id == project_id, Annotation.is_deleted.is_(False))
        )
        return {row.id: _choice(row.result or [], tag) for row in rows}


def _train(lorabel: Lorabel, project_id: int) -> str:
    """Have a run done, and return the live version."""
    base = f"{lorabel.url}/api/v1/projects/{project_id}"
    deadline = time.monotonic() + TIMEOUT_S
    with httpx.Client(trust_env=False, timeout=30.0) as client:
        client.post(f"{base}/train").raise_for_status()
        while time.monotonic() < deadline:
            run = client.get(f"{base}/runs").json()["runs"][0]
            if run["state"] in ("finished", "failed"):
                assert run["state"] == "finished", run["error"]
                return str(client.get(base).json()["live_version"])
            time.sleep(0.3)
    raise AssertionError(f"the run of project {project_id} did not end in {TIMEOUT_S:.0f} s")


def _learn(lorabel: Lorabel, services: Services, site: Site) -> None:
    """Annotate, train, and see that the new version answers tasks that nobody has annotated."""
    answers = site.answers()
    unseen = list(answers)[ANNOTATED:]
    for task_id in list(answers)[:ANNOTATED]:
        site.annotate(task_id, answers[task_id])
    arrived = lambda: stored(services.store, site.project_id, site.labels.tag) == site.annotations()  # noqa: E731
    wait_until(arrived, EVENTS_TIMEOUT_S, "every annotation has arrived")
    version = f"p{site.project_id}.v1"
    assert _train(lorabel, site.project_id) == version
    shown = site.shown(unseen)
    assert {shown[task_id][0] for task_id in unseen} == {version}
    right = sum(shown[task_id][1] == answers[task_id] for task_id in unseen)
    assert right > 0.8 * len(unseen), f"{right} of {len(unseen)} are right"


def test_two_label_studios_with_a_project_1_and_the_reset_of_one(
    lorabel: Lorabel, services: Services, start_label_studio: Callable[..., Server]
) -> None:
    servers = [start_label_studio(PRIVATE_ADDRESSES) for _ in range(2)]
    with servers[0].client() as first_client:
        with servers[1].client() as second_client:
            first = _make_site(lorabel, servers[0], first_client, GRADES, seed=5)
            second = _make_site(lorabel, servers[1], second_client, VERDICTS, seed=6)
            assert (first.project_id, second.project_id) == (1, FIRST_OWN_ID)
            assert f"stored with project {FIRST_OWN_ID} here" in second.finding("access")
            for site in (first, second):
                _check_predictions(site)
            for site in (first, second):
                _learn(lorabel, services, site)
            assert set(first.annotations()) == set(second.annotations()), "both use the same numbers"
            _check_rollback(lorabel, first, second)
            _check_reconciliation(services, first, second)
            first_annotations, old_annotations = first.annotations(), second.annotations()
        kill_group(servers[1].process)
        _check_reset(
            lorabel, services, start_label_studio(PRIVATE_ADDRESSES, port=servers[1].port), old_annotations
        )
        _check_untouched(lorabel, services, first, first_annotations)


def _check_predictions(site: Site) -> None:
    """Each Label Studio gets predictions by its own label config and version."""
    shown = site.shown()
    assert {version for version, _ in shown.values()} == {f"p{site.project_id}.v0"}
    assert {choice for _, choice in shown.values()} <= set(site.labels.by_fill.values())


def _check_rollback(lorabel: Lorabel, first: Site, second: Site) -> None:
    assert (first.version(), second.version()) == ("p1.v1", f"p{FIRST_OWN_ID}.v1")
    path = f"{lorabel.url}/api/v1/projects/{second.project_id}/rollback"
    httpx.post(path, trust_env=False, timeout=30.0).raise_for_status()
    assert (first.version(), second.version()) == ("p1.v1", f"p{FIRST_OWN_ID}.v0")


def _check_reconciliation(services: Services, first: Site, second: Site) -> None:
    """A deletion without event, and a change, in one Label Studio."""
    before, second_before = first.annotations(), second.annotations()
    gone, changed = sorted(before)[:2]
    other = next(name for name in GRADES.by_fill.values() if name != before[changed])
    first.client.call("POST", f"/api/annotations/{gone}/convert-to-draft", json={})
    assert "0 annotations were missing here, 1 are gone there" in reconcile(services, first.project_id)
    assert "0 annotations were missing here, 0 are gone there" in reconcile(services, second.project_id)
    result = [choices("grade", "image", [other])]
    first.client.call("PATCH", f"/api/annotations/{changed}/", json={"result": result})
    expected = {number: name for number, name in (before | {changed: other}).items() if number != gone}
    assert first.annotations() == expected
    wait_until(
        lambda: stored(services.store, first.project_id, "grade") == expected,
        EVENTS_TIMEOUT_S,
        "the change is here",
    )
    assert stored(services.store, second.project_id, "verdict") == second.annotations() == second_before


def _check_reset(lorabel: Lorabel, services: Services, server: Server, old_annotations: dict[int, str]) -> None:
    """New data at the address of the second Label Studio: its project 1 starts afresh, the old one is kept."""
    findings = [check.finding for check in examine(lorabel.settings, FIRST_OWN_ID) if not check.is_ok]
    assert findings, "doctor notices that the token is refused"
    with server.client() as client:
        fresh = _make_site(lorabel, server, client, SIDES, seed=7)
        assert fresh.project_id == FIRST_OWN_ID + 1
        assert f"reset since project {FIRST_OWN_ID} was connected" in fresh.finding("access")
        _check_predictions(fresh)
        assert stored(services.store, fresh.project_id, "side") == {}
        _learn(lorabel, services, fresh)
        assert set(fresh.annotations()) & set(old_annotations), "numbers of old annotations are used anew"
        with services.store.write() as session:
            old = session.get_one(Project, FIRST_OWN_ID)
            assert (old.is_deleted, old.live_version) == (True, f"p{FIRST_OWN_ID}.v0")
            old.api_key = server.token
        assert f"another project 1 than project {FIRST_OWN_ID}" in reconcile(services, FIRST_OWN_ID)
        assert stored(services.store, FIRST_OWN_ID, "verdict") == old_annotations


def _check_untouched(lorabel: Lorabel, services: Services, site: Site, annotations: dict[int, str]) -> None:
    """The first Label Studio has noticed nothing of the other's reset."""
    assert site.version() == "p1.v1"
    assert {version for version, _ in site.shown().values()} == {"p1.v1"}
    assert site.annotations() == stored(services.store, 1, "grade") == annotations
    assert "0 annotations were missing here, 0 are gone there" in reconcile(services, 1)
    assert [check for check in examine(lorabel.settings, 1) if not check.is_ok] == []
