"""The pages that connect projects, with a fake of Label Studio on a real socket.

tests/e2e/test_connect_in_browser.py uses them with the real one.
"""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
from flask.testing import FlaskClient

from backend.pages.connections import MOST_AT_ONCE, Connecting, ConnectingProject
from backend.pages.label_configs import read_questions
from backend.services import EXTENSION, Services
from lorabel.contracts import LabelsInput
from lorabel.database import connecting_files, projects
from lorabel.settings import Settings
from lorabel.text_contracts import WrittenLabelsInput
from tests.backend.fake_model_server import FakeModelServer
from tests.backend.test_pages import get, read_rows, text_of, token
from tests.lorabel.fake_label_studio import LEGACY_TOKEN, PERSONAL_TOKEN, FakeLabelStudio, make_jwt, serve

CONNECT = "/ui/connect"
BACKEND = "http://127.0.0.1:9090"
CONFIG = (
    '<View><Text name="text" value="$text"/><Choices name="mood" toName="text"><Choice value="good"/>'
    '<Choice value="bad"/></Choices><DateTime name="day" toName="text"/></View>'
)
ELSEWHERE = {"REMOTE_ADDR": "203.0.113.7"}
NO_CHANGES: Mapping[str, str] = MappingProxyType({})


@pytest.fixture
def fake() -> Iterator[FakeLabelStudio]:
    """A Label Studio whose project can be connected: its backend is registered."""
    fake = FakeLabelStudio()
    fake.settings = {"label_config": CONFIG, "title": "Moods <b>", "task_number": 3}
    fake.backends = [{"id": 1, "url": BACKEND, "title": "Lorabel", "state": "CO"}]
    with serve(fake):
        yield fake


def send(
    client: FlaskClient, path: str = CONNECT, environ: Mapping[str, str] = NO_CHANGES, **fields: object
) -> tuple[int, str]:
    """Status and text of the answer to a form; where it leads to, if it leads elsewhere."""
    answer = client.post(path, data={"form_token": token(client, CONNECT), **fields}, environ_base=dict(environ))
    return answer.status_code, answer.headers.get("Location") or answer.text


def begin(client: FlaskClient, url: str, api_key: str = PERSONAL_TOKEN) -> str:
    """Send address and token. Returns the path of the page to choose projects on."""
    status, location = send(client, url=url, token=api_key)
    assert status == 303, text_of(location)
    return location


def wait_for_end(client: FlaskClient, services: Services, path: str) -> str:
    """The text of the page after everything was done."""
    services.connections.close()
    return text_of(get(client, path))


def test_a_project_is_chosen_and_connected_and_the_doctor_looks_at_it(
    client: FlaskClient, services: Services, fake: FakeLabelStudio
) -> None:
    path = begin(client, f"{fake.url}/projects/1/data?tab=2")
    html = get(client, path)
    assert f"ok Label Studio 1.23.2 at {fake.url} as annotator@example.com, who sees 1 project" in text_of(html)
    assert read_rows(html)["Moods <b> 1"] == ["3", "mood text classification; left to people: day", ""]
    assert re.search(r'value="1" checked', html), "the address names it"
    assert send(client, path, project="1") == (303, path)
    said = wait_for_end(client, services, path)
    assert "Moods <b> connected" in said
    for finding in (
        "ok label config served: mood (TextClassification); left to people: day",
        "changed access address and token are stored with project 1",
        "ok proof the project has no task yet",
        "redis answers" if services.store.engine.name == "postgresql" else "redis no answer",
        "ok project 1: token annotator@example.com sees project 1",
    ):
        assert finding in said
    with services.store.read() as session:
        project = projects.get(session, 1)
    assert services.store.keyring.open(project.api_key or "") == PERSONAL_TOKEN
    assert project.api_key != PERSONAL_TOKEN
    assert read_rows(get(client, begin(client, fake.url)))["Moods <b> 1"][-1] == "connected"


def test_findings_arrive_as_events_until_everything_is_done(
    client: FlaskClient, services: Services, fake: FakeLabelStudio
) -> None:
    path = begin(client, fake.url)
    send(client, path, project="1")
    wait_for_end(client, services, path)
    first = client.get(f"{path}/events")
    assert first.content_type == "text/event-stream"
    assert "retry: 2000\nid: " in first.text and "What the doctor finds" in first.text
    number = re.search("id: (.*)", first.text)
    assert number is not None
    assert client.get(f"{path}/events", headers={"Last-Event-ID": number[1]}).status_code == 204
    assert client.get(f"{path}/events", headers={"Last-Event-ID": "older"}).text == first.text


def test_the_token_is_in_no_answer_file_or_log(
    client: FlaskClient,
    services: Services,
    fake: FakeLabelStudio,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    wrong = make_jwt(token_type="refresh", exp=9, iat=1)
    path = begin(client, fake.url)
    shown = get(client, path)
    files = list(connecting_files.folder_of(settings).iterdir())
    assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"]
    kept = "".join(file.read_text() for file in files)
    send(client, path, project="1")
    shown += wait_for_end(client, services, path) + get(client, path)
    shown += send(client, url=fake.url, token=wrong)[1]
    shown += send(client, url=PERSONAL_TOKEN, token=wrong)[1]
    shown += send(client, url=LEGACY_TOKEN, token="x")[1]
    kept += "".join(file.read_text() for file in connecting_files.folder_of(settings).iterdir())
    for secret in (PERSONAL_TOKEN, wrong, LEGACY_TOKEN):
        assert secret not in shown
        assert secret not in kept
        assert secret not in caplog.text
    assert '"token":""' in kept, "it is forgotten when the connecting begins"


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_what_is_wrong_with_address_or_token_is_said_and_what_to_do(
    client: FlaskClient, fake: FakeLabelStudio
) -> None:
    unreachable = f"http://127.0.0.1:{closed_port()}"
    revoked = make_jwt(token_type="refresh", exp=9, iat=1)
    for url, api_key, reason in (
        ("", PERSONAL_TOKEN, "write the address of Label Studio, for example http://localhost:8080"),
        ("localhost:8080/projects/3", PERSONAL_TOKEN, "has no scheme; write http://localhost:8080, or https://"),
        ("http://a b", PERSONAL_TOKEN, "is no address of a web server"),
        (fake.url, "", "the token is missing; Label Studio shows it under Account & Settings"),
        (fake.url, "schlüssel-mit-ü", "this is no token; copy it from Label Studio"),
        (fake.url, revoked, "refuses the personal access token (Token is invalid)"),
        (
            fake.url,
            "0" * 40,
            "legacy token authentication has been disabled; the token is",
        ),
        (
            unreachable,
            PERSONAL_TOKEN,
            "cannot be reached (ConnectError: [Errno 111] Connection refused); is",
        ),
    ):
        status, answer = send(client, url=url, token=api_key)
        assert (status, reason in text_of(answer)) == (422, True), (url, text_of(answer))
    fake.version = {"release": "1.9.2"}
    status, answer = send(client, url=fake.url, token=PERSONAL_TOKEN)
    assert "is version 1.9.2, expected 1.18 or newer: update" in text_of(answer)
    fake.version = "<p>Hello</p>"
    assert "is there a Label Studio" in text_of(send(client, url=fake.url, token=PERSONAL_TOKEN)[1])
    assert f'value="{fake.url}"' in send(client, url=fake.url, token="wrong")[1], "nobody types it again"


def test_an_address_that_nobody_has_named_is_for_those_with_the_password_or_at_this_machine(
    client: FlaskClient, services: Services, fake: FakeLabelStudio, settings: Settings
) -> None:
    refused = f"{fake.url} is not known here, and without a password anybody could name an address"
    for environ in (
        ELSEWHERE,
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "203.0.113.7"},
        {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "rebound.example.com:9090"},
    ):
        if "HTTP_HOST" in environ:
            headers = {"Host": environ["HTTP_HOST"]}
            page = client.get(CONNECT, headers=headers, base_url="http://rebound.example.com:9090").text
            form_token = re.search(r'name="form_token" value="([^"]+)"', page)
            assert form_token is not None
            answer = client.post(
                CONNECT,
                data={"form_token": form_token[1], "url": fake.url, "token": PERSONAL_TOKEN},
                base_url="http://rebound.example.com:9090",
            )
            status, text = answer.status_code, answer.text
        else:
            status, text = send(client, environ=environ, url=fake.url, token=PERSONAL_TOKEN)
        assert (status, refused in text_of(text)) == (422, True), (environ, text_of(text))
    assert fake.requests == [], "something was sent to an address that is not trusted"
    projects.upsert(services.store, 1, label_studio_url=fake.url)
    assert send(client, environ=ELSEWHERE, url=fake.url, token=PERSONAL_TOKEN)[0] == 303


def test_at_this_machine_counts_only_where_nobody_else_can_connect(
    client: FlaskClient, services: Services, fake: FakeLabelStudio
) -> None:
    """A proxy on this machine may say nothing of itself, and pass on a Host that a stranger has made up."""
    settings = services.settings.model_copy(update={"host": "0.0.0.0"})
    client.application.extensions[EXTENSION] = replace(services, settings=settings)
    status, text = send(client, url=fake.url, token=PERSONAL_TOKEN)
    assert status == 422 and "HOST=0.0.0.0 lets others in" in text_of(text) and fake.requests == []
    client.application.extensions[EXTENSION] = services
    assert send(client, url=fake.url, token=PERSONAL_TOKEN)[0] == 303


def test_a_token_by_plain_http_over_the_network_is_warned_of(client: FlaskClient) -> None:
    warning = "who can read the network can read the token"
    assert warning not in text_of(get(client, CONNECT))
    assert warning in text_of(client.get(CONNECT, environ_base=ELSEWHERE).text)
    assert warning not in text_of(
        client.get(CONNECT, environ_base=ELSEWHERE, base_url="https://here.example").text
    )


def test_what_cannot_be_connected_says_why_and_what_to_do(
    client: FlaskClient, services: Services, fake: FakeLabelStudio
) -> None:
    path = begin(client, fake.url)
    assert "0 projects are chosen, expected 1 to 100" in text_of(send(client, path)[1])
    assert "a project is a number" in text_of(send(client, path, project="one")[1])
    send(client, path, project=["1", "77"])
    said = wait_for_end(client, services, path)
    assert "Project 77 not connected" in said
    assert f"Label Studio at {fake.url} has no project 77 that the token's user sees" in said
    fake.settings["label_config"] = '<View><Text name="t" value="$t"/><DateTime name="day" toName="t"/></View>'
    path = begin(client, fake.url)
    send(client, path, project="1")
    said = wait_for_end(client, services, path)
    assert "served: nothing; left to people: day" in said and "or add --anyway to connect it as it is" in said
    path = begin(client, fake.url)
    send(client, path, project="1", anyway="on")
    assert "Moods <b> connected" in wait_for_end(client, services, path)


def test_a_form_is_begun_once_and_forgotten_after_an_hour(
    client: FlaskClient, services: Services, fake: FakeLabelStudio, settings: Settings
) -> None:
    path = begin(client, fake.url)
    name = path.rsplit("/", 1)[1]
    connecting = services.connections.read(name)
    send(client, path, project="1")
    wait_for_end(client, services, path)
    asked = fake.requests.count("/api/ml/")
    assert send(client, path, project="1") == (303, path)
    services.connections.begin(connecting, services.connections.read(name).projects, is_anyway=False)
    services.connections.close()
    assert fake.requests.count("/api/ml/") == asked, "it was connected twice"
    for file in connecting_files.folder_of(settings).iterdir():
        os.utime(file, (1.0, 1.0))
    assert client.get(path).status_code == 404
    assert list(connecting_files.folder_of(settings).iterdir()) == []
    assert client.get(f"{CONNECT}/..%2f..%2florabel.db").status_code == 404
    assert client.get(f"{CONNECT}/{'x' * 22}").status_code == 404


def test_only_some_are_connected_at_a_time(client: FlaskClient, services: Services, fake: FakeLabelStudio) -> None:
    for _ in range(MOST_AT_ONCE):
        services.connections._slots.acquire()
    path = begin(client, fake.url)
    assert "others are being connected now; try again in a minute" in text_of(send(client, path, project="1")[1])
    services.connections._slots.release()
    assert send(client, path, project="1")[0] == 303
    services.connections.close()


def test_an_attempt_that_cannot_be_written_takes_no_place(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = services.connections
    chosen = [ConnectingProject(label_studio_id=1, title="Moods")]
    kept = connections.add("http://127.0.0.1:9", "a token", BACKEND, None)

    def fail(connecting: Connecting) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(connections, "_write", fail)
        for _ in range(MOST_AT_ONCE + 1):
            with pytest.raises(OSError, match="no space"):
                connections.begin(kept, chosen, is_anyway=False)
        for _ in range(MOST_AT_ONCE + 1):
            assert connections._slots.acquire(blocking=False)
            with pytest.raises(OSError, match="no space"):
                connections._run(kept.model_copy(), "a token")
    connections.begin(kept, chosen, is_anyway=False)
    connections.close()
    assert connections.read(kept.name).is_ended


@pytest.mark.parametrize("path", [CONNECT, "/ui/label-config"])
def test_forms_of_other_sites_are_refused(client: FlaskClient, fake: FakeLabelStudio, path: str) -> None:
    data = {"form_token": token(client, CONNECT), "url": fake.url, "token": PERSONAL_TOKEN}
    assert client.post(path, data=data | {"form_token": "guess"}).status_code == 403
    assert client.post(path, data=data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert fake.requests == []


def test_a_label_config_is_tried(client: FlaskClient) -> None:
    path = "/ui/label-config"
    html = send(client, path, label_config=CONFIG)[1]
    rows = read_rows(html)
    assert rows["mood Choices"][:2] == ["Text $text", "text classification"]
    assert rows["mood Choices"][2] == "fake hf-hub:base loaded when it is first needed"
    assert rows["mood Choices"][3].startswith("Labels are scored by the similarity of their texts")
    assert rows["day DateTime"][1:] == ["left to people", "no problem serves DateTime on Text"]
    assert "cannot be read: unclosed token: line 1" in text_of(send(client, path, label_config="<View")[1])
    assert "has no control tag" in text_of(send(client, path, label_config="<View/>")[1])
    assert "&lt;script&gt;" in send(client, path, label_config="<script>alert(1)</script>")[1]


def test_a_label_config_with_thousands_of_control_tags_is_tried(client: FlaskClient) -> None:
    """Before, the page answered 500: the model server is asked about at most 1,000 questions at a time."""
    tags = (
        f'<Choices name="c{number}" toName="t"><Choice value="a"/><Choice value="b"/></Choices>'
        for number in range(1001)
    )
    label_config = f'<View><Text name="t" value="$text"/>{"".join(tags)}</View>'
    rows = read_rows(send(client, "/ui/label-config", label_config=label_config)[1])
    assert rows["c1000 Choices"][2] == "fake hf-hub:base loaded when it is first needed"


def test_a_tag_that_no_family_answers_says_so(client: FlaskClient) -> None:
    series = (
        '<View><TimeSeries name="s" value="$s"><Channel column="a"/></TimeSeries>'
        '<TimeSeriesLabels name="what" toName="s"><Label value="x"/></TimeSeriesLabels></View>'
    )
    rows = read_rows(send(client, "/ui/label-config", label_config=series)[1])
    assert rows["what TimeSeriesLabels"][2] == "no family answers series"


def test_a_label_config_is_tried_although_the_model_server_is_away(
    client: FlaskClient, model_server: FakeModelServer
) -> None:
    model_server.status = 500
    html = send(client, "/ui/label-config", label_config=CONFIG)[1]
    assert "Which models would answer is not known: model server answered 500" in text_of(html)
    assert read_rows(html)["mood Choices"][1:3] == ["text classification", "–"]


def test_what_is_asked_goes_to_the_model_that_writes_where_the_settings_say_so() -> None:
    asked = {
        problems: read_questions(CONFIG, Settings(generator_problems=problems))[0].kind
        for problems in ("", "text_classification")
    }
    assert asked == {"": LabelsInput.kind, "text_classification": WrittenLabelsInput.kind}


def test_a_project_without_a_connection_is_shown_how(client: FlaskClient, services: Services) -> None:
    projects.upsert(services.store, 7, label_config=CONFIG, hostname="http://labels.example.com:8080")
    html = get(client, "/ui/projects/7")
    assert "has no token for its Label Studio" in text_of(html)
    link = re.search(r'href="(/ui/connect\?url=[^"]+)"', html)
    assert link is not None
    assert 'value="http://labels.example.com:8080/projects/7"' in get(client, link[1].replace("&amp;", "&"))
    assert link[0] in get(client, "/ui/")
