"""The file with a project's rules: TOML -> typed rules. `rules.py` binds them to a label config and applies them.

[[exclusive]]
name = "one animal"
labels = ["Cat", "Dog"]

[[needs]]
name = "no logo without a sign"
label = "Logo"
needs = "Sign"

[[minimum_size]]
name = "no specks"
tag = "box"
width_percent = 2

[[pattern]]
name = "plates"
tag = "plate"
matches = '[A-Z]{1,3}-[A-Z]{1,2} [0-9]{1,4}'

[[field]]
name = "Germany"
field = "country"
is = ["DE", "AT"]
forbidden = ["Yield"]
"""

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Self

import re2
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from lorabel.errors import RulesError
from lorabel.labeling.task_fields import as_field_text

MOST_RULES = 100
MOST_LABELS = 1000
LONGEST_FILE = 100_000
LONGEST_PATTERN = 500
# Memory of a compiled pattern. RE2 needs time for a text that grows with this and with the length of the text, and
# with nothing else: no pattern takes exponential time.
PATTERN_BYTES = 2**19
MOST_ERRORS = 10
# The time of tomllib grows with the square of the parts of a dotted name, and no rule has such a name.
MANY_PARTS = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){20}""", re.ASCII
)
BYTE_ORDER_MARK = "\ufeff"  # which editors of Windows write

Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Size = Annotated[float, Field(gt=0, le=1e9)]
Percent = Annotated[float, Field(gt=0, le=100)]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _field_text(value: Any) -> Any:
    text = as_field_text(value)
    if text is None:
        raise ValueError("expected a text, a number, true or false")
    return text


FieldValue = Annotated[str, BeforeValidator(_field_text)]
FieldValues = Annotated[
    tuple[FieldValue, ...], BeforeValidator(_as_list), Field(min_length=1, max_length=MOST_LABELS, strict=False)
]


class Part(BaseModel):
    """Base class of the parts of the file. Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)


class TaggedLabel(Part):
    """A label of a certain control tag: `{tag = "animal", label = "Cat"}`."""

    tag: Text
    label: Text


LabelName = Text | TaggedLabel
# Lists of a file are lists, which strict tuples would refuse.
LabelNames = Annotated[tuple[LabelName, ...], Field(min_length=1, max_length=MOST_LABELS, strict=False)]


class Rule(Part):
    """Base class of rules.

    Attributes:
        name: what people call it; no two rules of a project have the same.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Exclusive(Rule):
    """Labels of which only the likeliest stays. Of labels that are equally likely, the first of the list stays."""

    labels: Annotated[LabelNames, Field(min_length=2)]


class Needs(Rule):
    """`label` is dropped where the task does not have `needs`."""

    label: LabelName
    needs: LabelName


class MinimumSize(Rule):
    """A region that is smaller in one of the sizes is dropped.

    Attributes:
        tag: the control tag whose regions are measured; None where `labels` say it.
        labels: only regions with one of these labels are measured; None for all of `tag`.
        width_percent, height_percent, area_percent: of a box or mask, in percent of the picture.
        width_px, height_px, area_px: of a box or mask, in pixels of the picture.
        characters: of a span of a text.
        seconds: of a segment of a sound.
        frames: of a segment of a video.
    """

    tag: Text | None = None
    labels: LabelNames | None = None
    width_percent: Percent | None = None
    height_percent: Percent | None = None
    area_percent: Percent | None = None
    width_px: Size | None = None
    height_px: Size | None = None
    area_px: Size | None = None
    characters: Size | None = None
    seconds: Size | None = None
    frames: Size | None = None

    @property
    def sizes(self) -> dict[str, float]:
        """The smallest sizes by what is measured, e.g. `{"width_px": 8}`."""
        named = self.model_dump(exclude={"name", "tag", "labels"}, exclude_none=True)
        return {unit: float(least) for unit, least in named.items()}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.tag is None and self.labels is None:
            raise ValueError("name the tag or the labels whose regions are measured")
        if not self.sizes:
            units = [unit for unit in type(self).model_fields if unit not in ("name", "tag", "labels")]
            raise ValueError(f"no size is named; expected one of {', '.join(units)}")
        return self


class Pattern(Rule):
    """A text that the regular expression does not match from its first to its last character is dropped.

    Attributes:
        tag: a `<TextArea>`.
        matches: in the syntax of RE2 (https://github.com/google/re2/wiki/Syntax).
    """

    tag: Text
    matches: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_PATTERN)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            compile_pattern(self.matches)
        except re2.error as error:
            raise ValueError(
                f"{self.matches!r} is no regular expression of RE2: {_words(error)}; its syntax is at "
                "https://github.com/google/re2/wiki/Syntax (without look-ahead, look-behind and backreferences)"
            ) from None
        return self


class FieldRule(Rule):
    """Where a field of the task's data has one of the values, labels are forbidden, or the only ones allowed.

    Attributes:
        field: name of the field; `meta.country` for a field in a field.
        values: compared as texts, so the number 1 is the text "1".
        allowed: of their control tags, no other labels may be predicted.
        forbidden: these labels may not be predicted.
    """

    field: Text
    values: Annotated[FieldValues, Field(alias="is")]
    allowed: LabelNames | None = None
    forbidden: LabelNames | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.allowed is None) == (self.forbidden is None):
            raise ValueError("expected either allowed or forbidden; for both, write two rules")
        return self


class RuleFile(Part):
    """All rules of a project. The kinds are applied in the order of `in_order`."""

    field: Annotated[tuple[FieldRule, ...], Field(max_length=MOST_RULES, strict=False)] = ()
    minimum_size: Annotated[tuple[MinimumSize, ...], Field(max_length=MOST_RULES, strict=False)] = ()
    pattern: Annotated[tuple[Pattern, ...], Field(max_length=MOST_RULES, strict=False)] = ()
    needs: Annotated[tuple[Needs, ...], Field(max_length=MOST_RULES, strict=False)] = ()
    exclusive: Annotated[tuple[Exclusive, ...], Field(max_length=MOST_RULES, strict=False)] = ()

    @property
    def in_order(self) -> Iterator[tuple[str, Rule]]:
        """Each rule with its kind, as the file names it."""
        for kind in type(self).model_fields:
            for rule in getattr(self, kind):
                yield kind, rule

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = Counter(rule.name for _, rule in self.in_order)
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise ValueError(f"several rules are named {', '.join(map(repr, twice))}; give each its own name")
        if len(names) > MOST_RULES:
            raise ValueError(f"there are {len(names)} rules, expected at most {MOST_RULES}")
        return self


def read_rules(text: str) -> RuleFile:
    """Read the file.

    Raises:
        RulesError: it is no TOML, or not of this form; the message says where, and what is expected.
    """
    if len(text) > LONGEST_FILE:
        raise RulesError(f"the file of rules has {len(text)} characters, expected at most {LONGEST_FILE}")
    content = _parse(text.removeprefix(BYTE_ORDER_MARK))
    try:
        return RuleFile.model_validate(content)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        lines = [_error_line(content, detail["loc"], detail["msg"]) for detail in details[:MOST_ERRORS]]
        more = [f"and {len(details) - MOST_ERRORS} more"] if len(details) > MOST_ERRORS else []
        raise RulesError("\n".join(dict.fromkeys([*lines, *more]))) from None


def _parse(text: str) -> dict[str, Any]:
    dotted = MANY_PARTS.search(text)
    if dotted is not None:
        line = text.count("\n", 0, dotted.start()) + 1
        raise RulesError(f"the file of rules has a name with more than 20 dots in line {line}")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise RulesError("the file of rules has too many brackets in brackets") from None
    except ValueError as error:  # also of a number that has too many digits
        raise RulesError(f"the file of rules is no TOML: {error}") from None


def compile_pattern(pattern: str) -> Any:
    """The compiled regular expression.

    Raises:
        re2.error: RE2 does not know it, or it takes too much memory.
    """
    options = re2.Options()
    options.max_mem = PATTERN_BYTES
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(pattern, options=options)
    except UnicodeEncodeError as error:
        raise re2.error(str(error)) from None


def _words(error: Exception) -> str:
    """What RE2 says, which it gives as bytes."""
    reason = error.args[0] if error.args else ""
    return reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)


def _error_line(content: dict[str, Any], place: Sequence[int | str], message: str) -> str:
    """An error with its place in the file: `[[pattern]] 2 ("plates"), matches: ...`."""
    kind, *rest = place or ("the file of rules",)
    words = message.removeprefix("Value error, ")
    if kind not in RuleFile.model_fields:
        kinds = ", ".join(f"[[{name}]]" for name in RuleFile.model_fields)
        return f"{kind}: {words}; expected rules of the kinds {kinds}" if place else words
    if not rest or not isinstance(rest[0], int):
        return f"{kind}: {words}; each rule begins with a line [[{kind}]]"
    rule = content[kind][rest[0]]
    name = rule.get("name") if isinstance(rule, dict) else None
    called = f" ({name!r})" if isinstance(name, str) else ""
    # Of a label that is written in none of its forms, pydantic names each form that it has tried.
    fields = ", ".join(str(part) for part in rest[1:] if part not in ("constrained-str", "TaggedLabel"))
    return f"[[{kind}]] {rest[0] + 1}{called}{f', {fields}' if fields else ''}: {words}"
