"""When the pool loads a family, and what it does if loading fails."""

from typing import Any, cast

import pytest

from lorabel.contracts import Content, EmbedInput, LabelsInput, Modality
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.cache import FeatureCache
from model_server import family_pool
from model_server.family_pool import FamilyPool, LoadedFamily

TEXT = Content(modality=Modality.TEXT, text="It leaks.")
QUESTION = LabelsInput(contents=(TEXT,), labels=(("a",), ("b",)))
TIMEOUT_S = 10.0


def loader(loaded: list[str]) -> Any:
    """A `load` that appends the names of the families that it is called for."""

    def load(family_type: Any) -> LoadedFamily:
        loaded.append(family_type.name)
        return LoadedFamily(cast(Any, family_type), cast(Any, None), FeatureCache({}))

    return load


def test_a_family_is_loaded_once_when_it_is_first_needed() -> None:
    loaded: list[str] = []
    pool = FamilyPool(loader(loaded))
    assert pool.loaded == []
    families = {pool.get_or_load(QUESTION).result(TIMEOUT_S).family for _ in range(3)}
    assert loaded == ["text_encoder"] and len(families) == 1
    assert len(pool.loaded) == 1


def test_a_question_to_the_cache_only_loads_no_family() -> None:
    loaded: list[str] = []
    pool = FamilyPool(loader(loaded))
    with pytest.raises(UnreadableError, match="text_encoder is not loaded"):
        pool.get_or_load(EmbedInput(contents=(TEXT,), is_cache_only=True))
    assert loaded == []


def test_a_family_that_cannot_be_loaded_raises_and_is_tried_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[str] = []

    def load(family_type: Any) -> LoadedFamily:
        attempts.append(family_type.name)
        raise SettingsError("no such weights")

    pool = FamilyPool(load)
    for _ in range(2):
        with pytest.raises(SettingsError, match="no such weights"):
            pool.get_or_load(QUESTION).result(TIMEOUT_S)
    assert len(attempts) == 1
    monkeypatch.setattr(family_pool, "RETRY_AFTER_S", 0.0)
    with pytest.raises(SettingsError):
        pool.get_or_load(QUESTION).result(TIMEOUT_S)
    assert len(attempts) == 2
