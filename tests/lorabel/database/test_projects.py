from typing import Any

import pytest
from pydantic import SecretStr

from lorabel.contracts import MediaRef
from lorabel.database.tables import Project
from lorabel.label_studio.access import LabelStudioAccess, label_studio_access, resolve_media
from lorabel.settings import Settings

ACCESS = LabelStudioAccess("http://ls:8080/labels", "key", is_trusted=True)


def resolved(url: str, access: LabelStudioAccess | None = ACCESS) -> MediaRef:
    return resolve_media(MediaRef(url=url), access, "Token key")


def test_an_upload_is_found_at_label_studio_with_its_token() -> None:
    assert resolved("/data/upload/1/a.png") == MediaRef(
        url="http://ls:8080/data/upload/1/a.png", authorization="Token key", is_trusted=True
    )


@pytest.mark.parametrize(
    "url", ["https://ls:8080/a.png", "http://ls:8081/a.png", "http://example.org/a.png", "s3://b/a"]
)
def test_the_token_goes_to_label_studios_origin_alone(url: str) -> None:
    assert resolved(url) == MediaRef(url=url)


def test_without_label_studio_urls_stay_as_they_are() -> None:
    assert resolved("/data/upload/1/a.png", None) == MediaRef(url="/data/upload/1/a.png")


def project(**columns: Any) -> Project:
    return Project(id=1, hostname="http://from-setup:8080", setup_token="setup", **columns)


def test_what_connect_stored_comes_before_the_settings_and_those_before_setup() -> None:
    settings = Settings(label_studio_url="http://set:8080", label_studio_api_key=SecretStr("set"))
    connected = project(label_studio_url="http://connected:8080", api_key="connected")
    assert label_studio_access(connected, settings) == LabelStudioAccess(
        "http://connected:8080", "connected", True
    )
    assert label_studio_access(project(), settings) == LabelStudioAccess("http://set:8080", "set", True)
    only_url = Settings(label_studio_url="http://set:8080")
    assert label_studio_access(project(), only_url) == LabelStudioAccess("http://set:8080", "setup", True)
    found = label_studio_access(project(), Settings())
    assert found == LabelStudioAccess("http://from-setup:8080", "setup", False), "nobody vouched for that address"
