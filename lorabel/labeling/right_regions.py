"""Remembers regions that fit a label config. The SDK takes longer to check a region than we take to predict it."""

from typing import Any

# Most regions that are remembered, most names in one of them, and the most characters that these have together.
MOST_REGIONS = 4096
MOST_NAMES = 100
MOST_CHARACTERS = 1000
FIELDS = frozenset({"from_name", "to_name", "type", "value"})


class RightRegions:
    """Regions whose value is a list of choices, such as `{"choices": ["cat"]}`: of these the predictions of a
    project have few. Others have places or texts, and no two are equal. Thread-safe."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, ...]] = set()

    def __contains__(self, region: dict[str, Any]) -> bool:
        return bool(self._keys) and _key(region) in self._keys

    def note(self, region: dict[str, Any], errors: list[str]) -> list[str]:
        """Remember the region if it has no errors. Returns the errors."""
        if not errors and len(self._keys) < MOST_REGIONS and (key := _key(region)) is not None:
            self._keys.add(key)
        return errors


def _key(region: dict[str, Any]) -> tuple[str, ...] | None:
    """A key that only equal regions share; None for a region that is not remembered."""
    value = region.get("value")
    if not isinstance(value, dict) or len(value) != 1 or region.keys() != FIELDS:
        return None
    ((field, names),) = value.items()
    if field != "choices" or not isinstance(names, list) or len(names) > MOST_NAMES:
        return None
    key = (region["from_name"], region["to_name"], region["type"], *names)
    if any(type(part) is not str for part in key) or sum(map(len, key)) > MOST_CHARACTERS:
        return None
    return key
