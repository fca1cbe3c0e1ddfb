"""Rules are checked while others write."""

import threading

from lorabel.database import projects, rules
from lorabel.database.store import Store
from lorabel.errors import RulesError
from tests.backend.requests import CONFIG


def test_a_file_is_refused_while_others_write(store: Store) -> None:
    projects.upsert(store, 1, label_config=CONFIG)
    refused: list[str] = []

    def set_file() -> None:
        try:
            rules.set_file(store, 1, "[[")
        except RulesError as error:
            refused.append(str(error))

    with store.write():
        thread = threading.Thread(target=set_file)
        thread.start()
        thread.join(20)
        assert refused, "the file waits for the others"
        assert "no TOML" in refused[0]
