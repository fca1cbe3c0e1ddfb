import socket
import socketserver
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, is_offline_mode

from lorabel.errors import SettingsError
from lorabel.families.base import Family
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.loading import base_model_types, load_family
from lorabel.settings import Settings
from tests.lorabel.commands.test_model_folder import put_into_cache, use_hub
from tests.serving import serving


class DeadHub(socketserver.ThreadingTCPServer):
    """Closes each connection without an answer, and counts them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.connections = 0

    def process_request(
        self, request: "socket.socket | tuple[bytes, socket.socket]", client_address: object
    ) -> None:
        self.connections += 1
        self.shutdown_request(request)


@pytest.fixture
def dead_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeadHub]:
    """A hub that does not answer, and an empty cache."""
    hub = DeadHub()
    with serving(hub):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        use_hub(hub.url, monkeypatch)
        yield hub


def settings_with(family: type[Family], source: str) -> Settings:
    return Settings(device="cpu", models={family.name: source})


@pytest.mark.parametrize(
    "family",
    [family for family in base_model_types() if not family.is_local(family.default_source)],
    ids=lambda family: family.name,
)
def test_a_hub_that_cannot_be_reached_is_tried_once_and_named_with_what_to_do(
    family: type[Family], dead_hub: DeadHub
) -> None:
    with pytest.raises(SettingsError) as failed:
        load_family(family, settings_with(family, "hf-hub:nobody/nothing"))
    variable = f"MODEL_{family.name.upper()}"
    for part in (
        f"{variable}='hf-hub:nobody/nothing' cannot be loaded: the model hub cannot be reached: {dead_hub.url} (",
        f"run `lorabel fetch-model {family.name} FOLDER`",
        f"set {variable}=local-dir:FOLDER",
    ):
        assert part in str(failed.value)
    assert dead_hub.connections == 1
    assert not is_offline_mode()


def test_a_model_in_the_cache_is_loaded_without_a_hub(dead_hub: DeadHub, tmp_path: Path) -> None:
    source = DualEncoder.tiny(tmp_path / "files")
    put_into_cache(Path(constants.HF_HUB_CACHE), "someone/something", tmp_path / "files")
    loaded = load_family(DualEncoder, settings_with(DualEncoder, "hf-hub:someone/something"))
    expected = load_family(DualEncoder, settings_with(DualEncoder, source))
    assert dead_hub.connections == 1
    for name, weight in expected.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], weight)


def test_a_folder_is_loaded_without_a_question_to_the_hub(dead_hub: DeadHub, tmp_path: Path) -> None:
    load_family(DualEncoder, settings_with(DualEncoder, DualEncoder.tiny(tmp_path / "files")))
    assert dead_hub.connections == 0
