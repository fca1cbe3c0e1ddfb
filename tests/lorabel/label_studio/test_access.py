from typing import Any

import pytest
from pydantic import SecretStr

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.errors import ConflictError
from lorabel.label_studio.access import (
    LabelStudioAccess,
    _address,
    _address_in_folder,
    label_studio_access,
    require_api_access,
    resolve_media,
)
from lorabel.settings import Settings

ACCESS = LabelStudioAccess("http://ls:8080/labels", "key", is_trusted=True)


def resolve(url: str, access: LabelStudioAccess | None = ACCESS) -> MediaRef:
    return resolve_media(MediaRef(url=url), access, "Token key")


def test_an_uploaded_file_is_fetched_from_label_studio_with_the_token() -> None:
    assert resolve("/data/upload/1/a.png") == MediaRef(
        url="http://ls:8080/labels/data/upload/1/a.png",
        authorization="Token key",
        is_trusted=True,
        is_label_studio=True,
    )


@pytest.mark.parametrize("url", ["http://ls:8080", "http://ls:8080/", "http://ls:8080/inner"])
@pytest.mark.parametrize(
    "written",
    [
        "/data/local-files/?d=a%20b.png",
        "data/local-files/?d=a b.png",
        "/labels/data/local-files/?d=a%20b.png",
        "https://example.org/labels/data/local-files/?d=a%20b.png",
        "https://EXAMPLE.org:443/labels/data/local-files/?d=a%20b.png#x",
    ],
)
def test_media_is_fetched_where_this_machine_reaches_label_studio(url: str, written: str) -> None:
    access = LabelStudioAccess(url, "key", True, "https://example.org/labels")
    media = resolve(written, access)
    assert media.url == url.rstrip("/") + "/data/local-files/?d=a%20b.png"
    assert media.is_label_studio and media.is_trusted and media.authorization == "Token key"


@pytest.mark.parametrize(
    "written",
    [
        "https://example.org/data/upload/1/a.png",
        "https://example.org/labels/api/current-user/token",
        "https://example.org/labels/data/upload/../../api/current-user/token",
        "http://example.org/labels/data/upload/1/a.png",
    ],
)
def test_nothing_else_at_label_studios_public_address_gets_the_token(written: str) -> None:
    access = LabelStudioAccess("http://ls:8080", "key", True, "https://example.org/labels")
    assert resolve(written, access) == MediaRef(url=written)


def test_a_data_url_stays_as_it_is() -> None:
    assert resolve(" DATA:,x y").url == " DATA:,x y"


@pytest.mark.parametrize(
    ("url", "has_token"),
    [
        ("/labels/data/upload/1/a.png", True),
        ("/tasks/5/resolve/?fileuri=czM6Ly9iL2E=", True),
        ("/api/current-user/token", False),
        ("api/current-user/token", False),
        ("http://ls:8080/data/upload/1/a.png", False),
        ("/data/upload/../../api/current-user/token", False),
        ("/data/upload/%2e%2e/%2e%2e/api/current-user/token", False),
        ("/api/data/upload/1/a.png", False),
        ("http://LS:8080/api/current-user/token", False),
    ],
)
def test_only_the_paths_of_label_studios_media_get_the_token(url: str, has_token: bool) -> None:
    assert (resolve(url).authorization is not None) is has_token
    assert resolve(url).is_label_studio


@pytest.mark.parametrize(
    "url", ["https://ls:8080/a.png", "http://ls:8081/a.png", "http://example.org/a.png", "s3://b/a"]
)
def test_only_addresses_at_label_studios_origin_get_the_token(url: str) -> None:
    assert resolve(url) == MediaRef(url=url)


@pytest.mark.parametrize(
    "access", [ACCESS, LabelStudioAccess("http://ls", "key", False, "https://example.org/labels")]
)
def test_files_of_a_folder_are_resolved_as_each_of_them_alone(access: LabelStudioAccess) -> None:
    folders = (
        "/",
        "",
        "http://",
        "//",
        "http:/",
        "https://example.org/labels/",
        "https://example.org/labels/data/upload/1/",
        "http://ls:8080/",
        "http://ls/",
        "HTTP://LS:8080/labels/data/upload/1/",
        "/data/",
        "/data/upload/1/",
        "/data/upload/1/./",
        "/data/upload/../../api/",
        "/data/upload/%2e%2e/",
        "data/upload/b\\",
        "/data/local-files/?d=",
        "/data/local-files/?d=a b/",
        "/data/local-files/?d=a/#/",
        " /data/upload/1/",
        "/data/upload/ä/",
        "/data/upload/1//",
        "http://user@ls:8080/labels/data/upload/1/",
        "/tasks/5/",
        "/tasks/5/resolve/?fileuri=s3/",
        "s3://bucket/folder/",
        "http://ls:8080\\@evil.example/",
        "/data/upload/1;a=b/",
    )
    names = (
        "a.png",
        "b-1_2.jpg",
        "ls",
        "ls.lan",
        "example.org",
        "resolve",
        "local-files",
        "api",
        "a.tar.gz",
        "..",
        ".a.png",
        "a..b",
        "a.png ",
        "a.png?x=1",
        "a.png#x",
        "%2e%2e",
        "a%20b.png",
        "ä.png",
        "A.",
        "",
        "token",
        "a.png\n",
    )
    for folder in folders:
        for name in names:
            expected = _address(folder + name, access)
            media = resolve(folder + name, access)
            if expected is None:
                assert media == MediaRef(url=folder + name)
            else:
                token = "Token key" if expected.has_token else None
                assert (media.url, media.authorization) == (expected.url, token)
                assert (media.is_trusted, media.is_label_studio) == (access.is_trusted, True)


def test_addresses_stay_as_they_are_if_label_studios_address_is_not_known() -> None:
    assert resolve("/data/upload/1/a.png", None) == MediaRef(url="/data/upload/1/a.png")


def project(**columns: Any) -> Project:
    return Project(id=1, hostname="http://from-setup:8080", setup_token="setup", **columns)


def test_access_from_connect_comes_before_the_settings_and_the_settings_before_setup() -> None:
    settings = Settings(label_studio_url="http://set:8080", label_studio_api_key=SecretStr("set"))
    connected = project(label_studio_url="http://connected:8080", api_key="connected")
    public = "http://from-setup:8080"
    assert label_studio_access(connected, settings) == LabelStudioAccess(
        "http://connected:8080", "connected", True, public
    )
    assert label_studio_access(project(), settings) == LabelStudioAccess("http://set:8080", "set", True, public)
    only_url = Settings(label_studio_url="http://set:8080")
    assert label_studio_access(project(), only_url) == LabelStudioAccess("http://set:8080", "setup", True, public)
    access = label_studio_access(project(), Settings())
    assert access == LabelStudioAccess(public, "setup", False, public), "nobody vouched for that address"


def test_the_api_needs_a_token_and_an_address_that_the_operator_named() -> None:
    connected = project(label_studio_url="http://connected:8080", api_key="connected")
    access = require_api_access(connected, Settings())
    assert access == LabelStudioAccess("http://connected:8080", "connected", True, "http://from-setup:8080")
    message = "project 1: predictions cannot be written back without a token .* `lorabel connect`"
    with pytest.raises(ConflictError, match=message):
        require_api_access(project(), Settings())
    with pytest.raises(ConflictError, match="project 1: its tasks cannot be read without a token"):
        require_api_access(project(label_studio_url="http://ls:8080"), Settings(), "its tasks cannot be read")


@pytest.mark.parametrize("folder", ["http://elsewhere.example/?sig=1", f"http://elsewhere.example/{'a' * 3000}"])
def test_folders_that_each_task_has_for_itself_are_not_remembered(folder: str) -> None:
    before = _address_in_folder.cache_info().currsize
    assert resolve(f"{folder}/a.png") == MediaRef(url=f"{folder}/a.png")
    assert _address_in_folder.cache_info().currsize == before
