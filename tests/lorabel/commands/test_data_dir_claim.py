import json
import logging
import os
from pathlib import Path

import pytest

from lorabel.commands.data_dir_claim import DataDirClaim, read_record
from lorabel.commands.processes import SessionLeader
from lorabel.errors import SettingsError

REDIS = SessionLeader("redis", 71, "boot:12", ("redis-server", "--port", "0"))


def test_a_second_claim_names_the_process_that_holds_the_folder(tmp_path: Path) -> None:
    first, second = DataDirClaim(tmp_path), DataDirClaim(tmp_path)
    first.take()
    with pytest.raises(SettingsError, match=rf"{tmp_path} is in use by process {os.getpid()}.*set DATA_DIR"):
        second.take()
    second.release()
    with pytest.raises(SettingsError):
        second.take()
    first.release()
    second.take()
    second.release()


def test_the_record_belongs_to_the_claim_that_wrote_it(tmp_path: Path) -> None:
    claim = DataDirClaim(tmp_path)
    claim.take()
    claim.write([REDIS])
    assert read_record(claim.record) == read_record(claim.record, claim.token) == [REDIS]
    assert read_record(claim.record, DataDirClaim(tmp_path).token) == []
    claim.release()
    assert read_record(claim.record) == []


@pytest.mark.parametrize("content", ["", "[]", "\0", json.dumps({"token": "x", "processes": [{"name": "redis"}]})])
def test_a_broken_record_names_no_process(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    record = tmp_path / "up.json"
    record.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read_record(record) == []
    assert str(record) in caplog.text
