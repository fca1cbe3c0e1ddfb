"""Control tags that are for explanations alone: those whose names begin with `lorabel_why`.

    <TextArea name="lorabel_why" toName="text"/>

What stands in them Lorabel has written there (EXPLAIN_IN), and it is no answer. They are no control tags of the
`LabelConfig`, so no problem serves them; nothing is learned of their regions, and results that differ in these
alone say the same. That also holds while the setting is off: annotations keep what was written before.
"""

from collections.abc import Sequence
from typing import Any

PREFIX = "lorabel_why"


def is_explanation_tag(name: Any) -> bool:
    """Whether a control tag with this name, or what a region has as its `from_name`, is for explanations."""
    return isinstance(name, str) and name.startswith(PREFIX)


def without_explanations(result: Sequence[Any]) -> list[Any]:
    """The items of a result that are answers, as decoded from JSON."""
    return [item for item in result if not (isinstance(item, dict) and is_explanation_tag(item.get("from_name")))]
