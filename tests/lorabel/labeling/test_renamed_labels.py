"""Which labels of a changed label config are the former ones under another name."""

import pytest

from lorabel.labeling.label_config import LabelConfig, parse
from lorabel.labeling.regions import choices, labels, relation, taxonomy
from lorabel.labeling.renamed_labels import NO_RENAMES, add_renames, find_renames, with_current_names


def config(*names: str, tag: str = "Choices", label: str = "Choice") -> LabelConfig:
    """Names with an alias are written "name=alias"."""
    values = [name.partition("=")[::2] for name in names]
    written = (
        f'<{label} value="{value}"' + (f' alias="{alias}"' if alias else "") + "/>" for value, alias in values
    )
    return parse(f'<View><Text name="t" value="$t"/><{tag} name="c" toName="t">{"".join(written)}</{tag}></View>')


def tree(xml: str) -> LabelConfig:
    return parse(f'<View><Text name="t" value="$t"/><Taxonomy name="c" toName="t">{xml}</Taxonomy></View>')


def renames(before: LabelConfig, after: LabelConfig) -> dict[str, str]:
    pairs = find_renames(before, after).get("c", [])
    return {"/".join(then): "/".join(now) for then, now in pairs}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (("crack", "dent"), ("crack", "dent"), {}),
        (("crack", "dent"), ("dent", "crack"), {}),
        (("crack", "dent"), ("cracks", "dent"), {"crack": "cracks"}),
        (("crack", "dent"), ("crack", "Dented"), {"dent": "Dented"}),
        (("crack", "dent"), ("crack", "hole", "dent"), {}),
        (("crack", "dent"), ("dent",), {}),
        (("crack", "dent"), ("hole", "dent"), {}),  # in its place, but another one
        (("crack", "dent"), ("dent", "cracks"), {}),  # alike, but in another place
        (("crack", "dent"), ("cracks", "crack", "dent"), {}),
        (("Grade A", "Grade B", "Grade C"), ("Grade B", "Grade C", "Grade D"), {}),
        (("Grade A", "Grade B"), ("Grade 1", "Grade 2"), {"Grade A": "Grade 1", "Grade B": "Grade 2"}),
        (("cracked", "dented", "ok"), ("dents", "cracks", "ok"), {"cracked": "cracks", "dented": "dents"}),
        # With an alias nothing has another name in results, whatever annotators see.
        (("crack=1", "dent=2"), ("hole=2", "scratch=1"), {}),
        (("crack", "dent"), ("dent=2", "crack=1"), {"crack": "1", "dent": "2"}),
        (("crack=1", "dent=2"), ("dent", "crack"), {"1": "crack", "2": "dent"}),
        (("crack=1", "dent=2"), ("crack=1", "hole=3"), {}),
    ],
)
def test_labels_are_renamed_by_alias_title_or_place_and_likeness(
    before: tuple[str, ...], after: tuple[str, ...], expected: dict[str, str]
) -> None:
    assert renames(config(*before), config(*after)) == expected


def test_a_node_of_a_taxonomy_takes_along_what_is_below_it() -> None:
    before = tree(
        '<Choice value="machine"><Choice value="belt"/><Choice value="gear"/></Choice><Choice value="gear"/>'
    )
    after = tree(
        '<Choice value="machines"><Choice value="belts"/><Choice value="gear"/></Choice><Choice value="gear"/>'
    )
    assert renames(before, after) == {
        "machine": "machines",
        "machine/belt": "machines/belts",
        "machine/gear": "machines/gear",
    }
    known = add_renames(NO_RENAMES, find_renames(before, after), after)
    regions = [taxonomy("c", "t", [["machine", "belt"], ["gear"]])]
    assert with_current_names(regions, known) == [taxonomy("c", "t", [["machines", "belts"], ["gear"]])]


def test_a_label_of_spans_is_renamed() -> None:
    before, after = (
        config(*names, tag="Labels", label="Label") for names in (("person", "place"), ("persons", "place"))
    )
    known = add_renames(NO_RENAMES, find_renames(before, after), after)
    span = labels("c", "t", "labels", {"start": 0, "end": 3, "text": "Ada"}, ["person"])
    assert with_current_names([span], known)[0]["value"] == {**span["value"], "labels": ["persons"]}


def test_renames_add_up_and_end_where_a_name_comes_back() -> None:
    known, now = NO_RENAMES, config("crack", "dent")
    for name, expected in (
        ("cracks", [[["crack"], ["cracks"]]]),
        ("cracked", [[["crack"], ["cracked"]], [["cracks"], ["cracked"]]]),
        ("crack", [[["cracked"], ["crack"]], [["cracks"], ["crack"]]]),
    ):
        before, now = now, config(name, "dent")
        known = add_renames(known, find_renames(before, now), now)
        assert known == {"c": expected}


def test_answers_that_are_no_names_stay_as_they_are() -> None:
    known = {"c": [[["crack"], ["cracks"]]]}
    odd = [
        {"from_name": "c", "type": "choices", "value": {"choices": [None, 1, ["crack", 2], "crack"]}},
        {"from_name": "c", "type": ["choices"], "value": {"choices": ["crack"]}},
        {"from_name": "c", "type": "choices", "value": "crack"},
        choices("other", "t", ["crack"]),
        {},
    ]
    assert with_current_names(odd, known)[0]["value"] == {"choices": [None, 1, ["crack", 2], "cracks"]}
    assert with_current_names(odd, known)[1:] == odd[1:]


def test_a_label_of_relations_is_renamed() -> None:
    def related(*names: str) -> LabelConfig:
        values = "".join(f'<Relation value="{name}"/>' for name in names)
        spans = '<Labels name="c" toName="t"><Label value="x"/></Labels><Text name="t" value="$t"/>'
        return parse(f"<View><Relations>{values}</Relations>{spans}</View>")

    after = related("owned", "knows")
    known = add_renames(NO_RENAMES, find_renames(related("owns", "knows"), after), after)
    items = [relation("a", "b", "right", ["owns", "knows"]), labels("c", "t", "labels", {"start": 0}, ["owns"])]
    assert with_current_names(items, known) == [{**items[0], "labels": ["owned", "knows"]}, items[1]]
