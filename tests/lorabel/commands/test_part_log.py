from pathlib import Path

from lorabel.commands.part_log import PartLog, newest_message

OLD = "2026-11-26 18:54:16,201 INFO lorabel.families.loading: loading a\n"
NEW = "2026-11-26 18:54:17,201 ERROR __main__: cannot start: b\n"
OF_OTHERS = (
    "[2026-11-26 18:54:18 +0000] [7] [INFO] Shutting down\n2026-11-26 18:54:17,201 WARNING urllib3.x: retry\n"
)


def test_only_new_and_whole_messages_of_our_own_are_read(tmp_path: Path) -> None:
    path = tmp_path / "model_server.log"
    assert PartLog(path).new_messages() == []
    path.write_text(OLD)
    log = PartLog(path)
    assert log.new_messages() == []
    with path.open("a") as file:
        file.write(OF_OTHERS + NEW.replace("ERROR", "WARNING") + NEW + OLD[:40])
    assert log.new_messages() == ["cannot start: b"], "errors are left out"
    with path.open("a") as file:
        file.write(OLD[40:])
    assert (log.new_messages(), log.new_messages()) == (["loading a"], [])
    path.write_text(OLD)
    assert log.new_messages() == ["loading a"], "the log was begun anew"


def test_the_newest_message_of_our_own_is_found_behind_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "model_server.log"
    assert newest_message(path) is None
    path.write_text(OLD * 2000 + NEW + OF_OTHERS)
    assert newest_message(path) == "cannot start: b"
