from typing import Any, cast

import pytest

from lorabel.contracts import Content, EmbedInput, LabelsInput, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.cache import FeatureCache
from model_server import family_pool
from model_server.family_pool import FamilyPool, LoadedFamily

TEXT = Content(modality=Modality.TEXT, text="It leaks.")
ASKED = LabelsInput(contents=(TEXT,), labels=(("a",), ("b",)))
TIMEOUT_S = 10.0


def loader(loaded: list[str]) -> Any:
    def load(kind: Any) -> LoadedFamily:
        loaded.append(kind.name)
        return LoadedFamily(cast(Any, kind), cast(Any, None), FeatureCache({}))

    return load


def test_a_family_is_loaded_once_when_it_is_first_asked() -> None:
    loaded: list[str] = []
    found = FamilyPool(loader(loaded))
    assert found.loaded == []
    stations_of = {found.of(ASKED).result(TIMEOUT_S).family for _ in range(3)}
    assert loaded == ["text_encoder"] and len(stations_of) == 1
    assert len(found.loaded) == 1


def test_what_is_asked_of_memory_alone_loads_nothing() -> None:
    loaded: list[str] = []
    found = FamilyPool(loader(loaded))
    with pytest.raises(UnreadableError, match="text_encoder is not loaded"):
        found.of(EmbedInput(contents=(TEXT,), is_only_recalled=True))
    assert loaded == []


def test_who_asks_for_a_family_that_cannot_be_loaded_is_told_and_it_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def load(kind: Any) -> LoadedFamily:
        tried.append(kind.name)
        raise SettingsError("no such weights")

    found = FamilyPool(load)
    for _ in range(2):
        with pytest.raises(SettingsError, match="no such weights"):
            found.of(ASKED).result(TIMEOUT_S)
    assert len(tried) == 1
    monkeypatch.setattr(family_pool, "RETRY_AFTER_S", 0.0)
    with pytest.raises(SettingsError):
        found.of(ASKED).result(TIMEOUT_S)
    assert len(tried) == 2
