import logging
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from lorabel.families.load_reports import reported_load


def test_a_long_load_is_reported_with_the_part_of_the_file_that_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    caplog.set_level(logging.INFO, "lorabel")
    blobs = tmp_path / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "complete").write_bytes(b"x" * 5_000_000)
    with reported_load("dual_encoder from hf-hub:owner/name", first_report_s=0.05):
        _wait_for(caplog, "still loading dual_encoder from hf-hub:owner/name after 0 s")
        assert "MB" not in caplog.text
        (blobs / "sum.incomplete").write_bytes(b"x" * 1_500_000)
        _wait_for(caplog, "1.5 MB of a file are downloaded")
    count = len(caplog.messages)
    time.sleep(0.3)
    assert len(caplog.messages) == count, "no report after the end"


def _wait_for(caplog: pytest.LogCaptureFixture, text: str) -> None:
    deadline = time.monotonic() + 20
    while text not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert text in caplog.text
