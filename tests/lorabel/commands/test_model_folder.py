import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoTokenizer

from lorabel.errors import SettingsError
from lorabel.families.base import Family
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.loading import base_model_types
from lorabel.families.speech import Speech
from lorabel.settings import Settings
from tests.ctranslate2_writer import write_ctranslate2
from tests.lorabel.commands.conftest import RunLorabel
from tests.servers import free_port
from tests.serving import serving

COMMIT = "0" * 40
# The other families' tests take a minute together.
USUAL = (DualEncoder,)


def put_into_cache(cache: Path, owner_and_name: str, files: Path) -> None:
    """Lay a repository into a cache of the hub as huggingface_hub does: links to files named by digests."""
    repository = cache / f"models--{owner_and_name.replace('/', '--')}"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    blobs.mkdir(parents=True)
    for path in files.rglob("*"):
        if path.is_file():
            blob = blobs / hashlib.sha256(path.read_bytes()).hexdigest()
            blob.write_bytes(path.read_bytes())
            link = snapshot / path.relative_to(files)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, on a machine that reaches none."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    use_hub(f"http://127.0.0.1:{free_port()}", monkeypatch)
    return tmp_path / "cache"


def use_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", url)


def weights(family: type[Family], source: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # the head of token_classifier begins with random weights
    loaded = family.load(source, torch.device("cpu"), torch.float32, Settings())
    return dict(loaded.module.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=[] if family in USUAL else [pytest.mark.long])
        for family in base_model_types()
        if not family.is_local(family.default_source)
    ],
)
def test_a_model_becomes_a_folder_that_loads_on_a_machine_without_a_hub(
    family: type[Family], cache: Path, lorabel: RunLorabel, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    source = family.tiny(tmp_path / "files")
    put_into_cache(cache, "someone/something", tmp_path / "files")
    folder = tmp_path / "models" / family.name
    result = lorabel("fetch-model", family.name, str(folder), "--source", "hf-hub:someone/something")
    assert result.exit_status == 0, result.errors
    assert f"MODEL_{family.name.upper()}=local-dir:{folder}\n" in result.output
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert [path.name for path in folder.parent.iterdir()] == [family.name]
    expected, fetched = weights(family, source), weights(family, f"local-dir:{folder}")
    assert fetched.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(fetched[name], expected[name])] == []


@pytest.mark.slow
def test_files_that_do_not_load_are_named_and_no_folder_is_left(
    cache: Path, lorabel: RunLorabel, tmp_path: Path
) -> None:
    """Weights in pickle are not fetched."""
    source = DualEncoder.tiny(tmp_path / "files").removeprefix("local-dir:")
    Path(source, "open_clip_model.safetensors").unlink()
    result = lorabel("fetch-model", "dual_encoder", str(tmp_path / "model"), "--source", f"local-dir:{source}")
    assert result.exit_status == 1
    assert "the files that were fetched are not enough to load the model: MODEL_DUAL_ENCODER=" in result.errors
    assert (
        sorted(path.name for path in tmp_path.iterdir() if "fetching" in path.name or path.name == "model") == []
    )


def test_a_hub_that_cannot_be_reached_is_said_with_what_to_do(
    cache: Path, lorabel: RunLorabel, tmp_path: Path
) -> None:
    result = lorabel("fetch-model", "text_encoder", str(tmp_path / "model"))
    assert result.exit_status == 1
    assert "error: hf-hub:ibm-granite/" in result.errors
    assert "the model hub cannot be reached (ConnectError: [Errno 111] Connection refused)" in result.errors
    assert "run this command on a machine that reaches the hub, and copy the folder" in result.errors
    assert "Traceback" not in result.errors and not (tmp_path / "model").exists()


class _NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_a_model_that_the_hub_does_not_have_is_said(
    cache: Path, lorabel: RunLorabel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NotFound)
    use_hub(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    with serving(server):
        result = lorabel("fetch-model", "text_encoder", str(tmp_path / "model"), "--source", "hf-hub:a/b")
    assert result.exit_status == 1
    assert "error: the model hub does not give hf-hub:a/b: 404" in result.errors


def test_a_family_that_is_unknown_and_a_folder_that_is_not_empty_are_refused(
    lorabel: RunLorabel, tmp_path: Path
) -> None:
    unknown = lorabel("fetch-model", "nothing", str(tmp_path / "model"))
    assert (
        "error: 'nothing' is no model family; known: audio_text_encoder, detector, dual_encoder" in unknown.errors
    )
    full_folder = tmp_path / "full"
    full_folder.mkdir()
    (full_folder / "file").touch()
    full = lorabel("fetch-model", "text_encoder", str(full_folder))
    assert f"error: {str(full_folder)!r} is not empty; expected a new folder" in full.errors


def test_open_clips_names_lead_to_repositories() -> None:
    assert DualEncoder.hub_id("ViT-B-16-SigLIP2-256/webli") == "timm/ViT-B-16-SigLIP2-256"
    assert DualEncoder.hub_id("hf-hub:owner/name") == "owner/name"
    with pytest.raises(SettingsError, match="knows no repository on the model hub for 'ViT-B-32/nothing'"):
        DualEncoder.hub_id("ViT-B-32/nothing")


@pytest.mark.slow
@pytest.mark.long
def test_a_model_of_ctranslate2_is_written_as_the_family_loads_it(tmp_path: Path, lorabel: RunLorabel) -> None:
    original, target = tmp_path / "original", tmp_path / "new" / "converted"
    source = Speech.tiny(original)
    module = Speech.load(source, torch.device("cpu"), torch.float32, Settings()).module
    write_ctranslate2(module, AutoTokenizer.from_pretrained(original), tmp_path / "ctranslate2")
    result = lorabel("convert-model", str(tmp_path / "ctranslate2"), str(target))
    assert f"MODEL_SPEECH=local-dir:{target}" in result.output, result.errors
    converted, expected = weights(Speech, f"local-dir:{target}"), weights(Speech, source)
    assert converted.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(converted[name], weight, atol=1e-3, rtol=1e-3)
    assert "is not empty" in lorabel("convert-model", str(tmp_path / "ctranslate2"), str(target)).errors
    assert "cannot be read" in lorabel("convert-model", str(original), str(tmp_path / "other")).errors
    assert not (tmp_path / "other").exists()
