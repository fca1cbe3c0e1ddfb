"""Rules: each kind against what it must remove, and properties that hold for any prediction."""

import random
from pathlib import Path
from typing import Any

import pytest

from lorabel.errors import RulesError
from lorabel.labeling.image_regions import image_region
from lorabel.labeling.label_config import parse
from lorabel.labeling.regions import Region, choices, labels, relation, sound_segment, taxonomy, textarea
from lorabel.labeling.rule_binding import bind_rules, require_fit
from lorabel.labeling.rule_file import RuleFile, read_rules
from lorabel.labeling.rules import BoundRules, Removal
from lorabel.labeling.video_regions import track_region
from lorabel.track_contracts import Keyframe

CONFIG = parse(
    """<View><Image name="image" value="$image"/><Text name="text" value="$text"/>
    <RectangleLabels name="box" toName="image"><Label value="Car"/><Label value="Plate"/></RectangleLabels>
    <Choices name="kinds" toName="image" choice="multiple">
      <Choice value="day"/><Choice value="night"/><Choice value="rain"/></Choices>
    <Choices name="state" toName="image" perRegion="true"><Choice value="new"/><Choice value="old"/></Choices>
    <TextArea name="plate" toName="image"/>
    <Taxonomy name="kind" toName="text"><Choice value="animal"><Choice value="cat"/></Choice>
      <Choice value="plant"/></Taxonomy>
    <Labels name="entity" toName="text"><Label value="Person"/><Label value="City"/></Labels></View>"""
)
SIZE = (200, 100)


def box(label: str, width: float, score: float = 0.9, **fields: Any) -> Region:
    """A box of a quarter of the picture's height; `width` is a fraction."""
    region = image_region(
        "box", "image", "rectanglelabels", (0.1, 0.1, 0.1 + width, 0.35), SIZE, {"rectanglelabels": [label]}
    )
    return {**region, "score": score, **fields}


def bound(text: str) -> BoundRules:
    return require_fit(read_rules(text), CONFIG)


def applied(
    text: str, regions: list[Region], data: Any = None, **scores: float
) -> tuple[list[Region | None], list[Removal]]:
    def score_of(region: Region, label: str) -> float:
        return float(region.get("score", scores.get(label, 0.5)))

    return bound(text).apply(regions, data or {}, {"state"}, score_of)


def test_of_exclusive_labels_only_the_likeliest_stays_with_all_its_regions() -> None:
    regions = [box("Car", 0.2, 0.4), box("Plate", 0.2, 0.8), box("Plate", 0.3, 0.3)]
    rules = '[[exclusive]]\nname = "one"\nlabels = ["Car", "Plate"]'
    left, removals = applied(rules, regions)
    assert left == [None, regions[1], regions[2]]
    assert removals == [Removal("one", "box", "Car", False, "'Plate' is likelier")]


def test_a_label_is_taken_out_of_a_choice_of_several() -> None:
    region = choices("kinds", "image", ["day", "night", "rain"])
    rules = '[[exclusive]]\nname = "one"\nlabels = ["day", "night"]'
    (left,), _ = applied(rules, [region], day=0.6, night=0.9, rain=0.7)
    assert left == choices("kinds", "image", ["night", "rain"])
    assert region["value"]["choices"] == ["day", "night", "rain"], "the prediction itself was changed"


def test_labels_of_regions_exclude_each_other_across_control_tags() -> None:
    rules = '[[exclusive]]\nname = "one"\nlabels = ["Car", "night"]'
    left, _ = applied(rules, [box("Car", 0.2, 0.4), choices("kinds", "image", ["night"])], night=0.9)
    assert left == [None, choices("kinds", "image", ["night"])]


def test_answers_about_regions_exclude_each_other_in_each_region() -> None:
    answers = [{**choices("state", "image", [value]), "id": id_} for id_, value in (("a", "new"), ("b", "old"))]
    both = [*answers, {**choices("state", "image", ["old"]), "id": "a", "score": 0.1}]
    left, removals = applied('[[exclusive]]\nname = "one"\nlabels = ["new", "old"]', both)
    assert left == [*answers, None]
    assert len(removals) == 1


def test_a_label_that_needs_another_goes_without_it_and_takes_those_that_need_it_along() -> None:
    rules = (
        '[[needs]]\nname = "first"\nlabel = "Car"\nneeds = "Plate"\n'
        '[[needs]]\nname = "second"\nlabel = "rain"\nneeds = "Car"'
    )
    region = choices("kinds", "image", ["rain"])
    assert applied(rules, [box("Car", 0.2), box("Plate", 0.2), region])[1] == []
    left, removals = applied(rules, [region, box("Car", 0.2)])
    assert left == [None, None]
    assert [removal.rule for removal in removals] == ["first", "second"]


def test_a_label_that_lacks_what_it_needs_does_not_exclude_another() -> None:
    rules = (
        '[[exclusive]]\nname = "one"\nlabels = ["Car", "Plate"]\n'
        '[[needs]]\nname = "need"\nlabel = "Car"\nneeds = "night"'
    )
    left, _ = applied(rules, [box("Car", 0.2, 0.9), box("Plate", 0.2, 0.1)])
    assert left == [None, box("Plate", 0.2, 0.1)]


@pytest.mark.parametrize(
    ("size", "is_kept"),
    [
        ("width_percent = 19.9", True),
        ("width_percent = 20.1", False),
        ("height_percent = 24.9", True),
        ("height_percent = 25.1", False),
        ("area_percent = 4.99", True),
        ("area_percent = 5.01", False),
        ("width_px = 39.9", True),
        ("width_px = 40.1", False),
        ("height_px = 25.1", False),
        ("area_px = 999", True),
        ("area_px = 1001", False),
        ("width_px = 1\nheight_px = 99", False),
    ],
)
def test_boxes_that_are_too_small_go(size: str, is_kept: bool) -> None:
    """The box is 20 % of 200 pixels wide, and 25 % of 100 pixels high."""
    (left,), removals = applied(f'[[minimum_size]]\nname = "big"\ntag = "box"\n{size}', [box("Car", 0.2)])
    assert (left is not None) == is_kept == (not removals)


def test_only_named_labels_are_measured() -> None:
    rules = '[[minimum_size]]\nname = "big"\nlabels = ["Car"]\nwidth_percent = 50'
    left, _ = applied(rules, [box("Car", 0.2), box("Plate", 0.2)])
    assert left == [None, box("Plate", 0.2)]


def test_spans_and_segments_that_are_too_short_go() -> None:
    spans = [
        labels("entity", "text", "labels", {"start": 0, "end": end, "text": "x" * end}, ["City"]) for end in (2, 3)
    ]
    left, removals = applied('[[minimum_size]]\nname = "long"\ntag = "entity"\ncharacters = 3', spans)
    assert left == [None, spans[1]]
    assert removals[0].why == "characters is 2, and not at least 3"
    sounds = parse(
        '<View><Audio name="a" value="$a"/><Labels name="s" toName="a"><Label value="x"/></Labels></View>'
    )
    rules = require_fit(read_rules('[[minimum_size]]\nname = "long"\ntag = "s"\nseconds = 0.5'), sounds)
    segments = [sound_segment("s", "a", (1.0, 1.0 + length), 9.0, ["x"]) for length in (0.4, 0.6)]
    assert rules.apply(segments, {}, (), lambda *_: 1.0)[0] == [None, segments[1]]


def test_texts_that_do_not_match_go_alone() -> None:
    rules = '[[pattern]]\nname = "plates"\ntag = "plate"\nmatches = \'[A-Z]{1,3}-[A-Z]{1,2} \\d{1,4}\''
    region = textarea("plate", "image", ["B-XY 123", "see B-XY 123", "B-XY 123 "])
    (left, about_box, drawn), removals = applied(
        rules, [region, {**textarea("plate", "image", ["no"]), "id": "a"}, box("Car", 0.2, id="a")]
    )
    assert left == textarea("plate", "image", ["B-XY 123"])
    assert about_box is None
    assert drawn is not None, "the box about which the text is stays for the annotator"
    assert [removal.what for removal in removals] == ["see B-XY 123", "B-XY 123 ", "no"]
    assert all(removal.is_text for removal in removals)


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a|aa)+b|(a|a)*c", "((a{0,9}){0,9}){0,9}", "([01]*1[01]{500})*", "(.*)*x"]
)
def test_no_pattern_takes_long(pattern: str) -> None:
    """A backtracking engine needs years for some of these, and the test's timeout would end it."""
    rules = f'[[pattern]]\nname = "evil"\ntag = "plate"\nmatches = \'{pattern}\''
    (left,), _ = applied(rules, [textarea("plate", "image", ["a" * 9999 + "!"])])
    assert left is None


@pytest.mark.parametrize("pattern", ["(((a{99}){99}){99}){99}", "(?=a)b", r"(a)\1", "[a", "*", "a)|(b", "(?R)a"])
def test_a_pattern_that_is_none_or_too_large_is_refused_with_a_reason(pattern: str) -> None:
    with pytest.raises(RulesError, match=r"\[\[pattern\]\] 1 \(.bad.\): .* is no regular expression of RE2: \w+"):
        read_rules(f'[[pattern]]\nname = "bad"\ntag = "plate"\nmatches = \'{pattern}\'')


def test_a_text_that_is_too_long_to_be_matched_goes() -> None:
    rules = '[[pattern]]\nname = "any"\ntag = "plate"\nmatches = ".*"'
    _, (removal,) = applied(rules, [textarea("plate", "image", ["a" * 10_001])])
    assert removal.why == "it has more than 10000 characters"


@pytest.mark.parametrize(
    ("data", "is_forbidden"),
    [
        ({"country": "DE"}, True),
        ({"country": " DE "}, True),
        ({"country": 7}, True),
        ({"country": 7.0}, True),
        ({"country": "de"}, False),
        ({"country": True}, False),
        ({"country": ["DE"]}, False),
        ({}, False),
    ],
)
def test_a_field_of_the_data_forbids_labels(data: Any, is_forbidden: bool) -> None:
    rules = '[[field]]\nname = "there"\nfield = "country"\nis = ["DE", 7]\nforbidden = ["Car"]'
    left, _ = applied(rules, [box("Car", 0.2), box("Plate", 0.2)], data)
    assert left == [None if is_forbidden else box("Car", 0.2), box("Plate", 0.2)]


def test_a_field_allows_only_some_labels_of_their_control_tags() -> None:
    rules = '[[field]]\nname = "there"\nfield = "meta.country"\nis = "DE"\nallowed = ["Car", "animal"]'
    regions = [
        box("Car", 0.2),
        box("Plate", 0.2),
        choices("kinds", "image", ["day"]),
        taxonomy("kind", "text", [["animal", "cat"]]),
    ]
    left, _ = applied(rules, regions, {"meta": {"country": "DE"}})
    assert left == [regions[0], None, regions[2], regions[3]]
    left, _ = applied(rules, [taxonomy("kind", "text", [["plant"]])], {"meta": {"country": "DE"}})
    assert left == [None]


def test_what_is_said_about_a_place_goes_with_it() -> None:
    regions = [
        box("Car", 0.2, id="a"),
        {**choices("state", "image", ["new"]), "id": "a"},
        box("Plate", 0.2, id="b"),
        relation("a", "b", "right"),
    ]
    rules = '[[field]]\nname = "no cars"\nfield = "n"\nis = 1\nforbidden = ["Car"]'
    left, removals = applied(rules, regions, {"n": 1})
    assert left == [None, None, regions[2], regions[3]]
    assert len(removals) == 1


def test_properties_hold_for_any_prediction() -> None:
    """Whatever is predicted: exclusive labels are alone, needs are met, nothing is small, nothing is added, and
    applying the rules again changes nothing."""
    rules = (
        '[[exclusive]]\nname = "a"\nlabels = ["Car", "Plate", "rain"]\n'
        '[[exclusive]]\nname = "b"\nlabels = ["day", "night"]\n'
        '[[needs]]\nname = "c"\nlabel = "day"\nneeds = "Car"\n'
        '[[needs]]\nname = "d"\nlabel = "City"\nneeds = "Person"\n'
        '[[minimum_size]]\nname = "e"\ntag = "box"\nwidth_percent = 10\n'
        '[[field]]\nname = "f"\nfield = "n"\nis = [1, 2]\nforbidden = ["Person"]'
    )
    chance = random.Random(7)
    for _ in range(300):
        regions = [
            box(chance.choice(["Car", "Plate"]), chance.uniform(0.01, 0.5), chance.random())
            for _ in range(chance.randrange(5))
        ]
        chosen = [name for name in ("day", "night", "rain") if chance.random() < 0.5]
        regions += [choices("kinds", "image", chosen)] if chosen else []
        regions += [
            labels("entity", "text", "labels", {"start": 0, "end": 4}, [chance.choice(["Person", "City"])])
            for _ in range(chance.randrange(3))
        ]
        data, scores = {"n": chance.randrange(4)}, {name: chance.random() for name in chosen}
        left, removals = applied(rules, regions, data, **scores)
        kept = [region for region in left if region is not None]
        named = {
            name
            for region in kept
            for key in ("rectanglelabels", "choices", "labels")
            for name in region["value"].get(key, ())
        }
        assert len(named & {"Car", "Plate", "rain"}) <= 1
        assert len(named & {"day", "night"}) <= 1
        assert "day" not in named or "Car" in named
        assert "City" not in named or "Person" in named
        assert data["n"] not in (1, 2) or "Person" not in named
        assert all(region["value"]["width"] >= 10 for region in kept if region["from_name"] == "box")
        assert (left == regions) == (not removals)
        assert applied(rules, kept, data, **scores) == (kept, [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[exclusive]", r"no TOML: .*line 1"),
        ('[[exklusive]]\nname = "a"', r"exklusive: .*expected rules of the kinds \[\[field\]\]"),
        ('exclusive = "a"', r"exclusive: .*each rule begins with a line \[\[exclusive\]\]"),
        ('[[exclusive]]\nlabels = ["Car", "Plate"]', r"\[\[exclusive\]\] 1, name: Field required"),
        ('[[exclusive]]\nname = "a"\nlabels = ["Car"]', r"\[\[exclusive\]\] 1 \('a'\), labels: .*at least 2"),
        ('[[exclusive]]\nname = "a"\nlabels = ["Car", "Plate"]\nlabel = 1', "label: Extra inputs"),
        ('[[minimum_size]]\nname = "a"\ntag = "box"', "no size is named; expected one of width_percent"),
        ('[[minimum_size]]\nname = "a"\nwidth_px = 3', "name the tag or the labels"),
        ('[[minimum_size]]\nname = "a"\ntag = "box"\nwidth_percent = 101', "width_percent: .*100"),
        ('[[minimum_size]]\nname = "a"\ntag = "box"\nwidth_px = nan', "width_px: "),
        ('[[field]]\nname = "a"\nfield = "f"\nis = 1', "expected either allowed or forbidden"),
        ('[[field]]\nname = "a"\nfield = "f"\nis = []\nforbidden = ["Car"]', "is: .*at least 1"),
        ('[[field]]\nname = "a"\nfield = "f"\nis = [[1]]\nforbidden = ["Car"]', "expected a text, a number"),
        ('[[needs]]\nname = "a"\nlabel = "Car"\nneeds = "day"\n' * 2, "several rules are named 'a'"),
        ('[[needs]]\nname = "a\\u0000"\nlabel = "Car"\nneeds = "day"', "name: String should match"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(RulesError, match=reason):
        read_rules(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[exclusive]]\nname = "a"\nlabels = ["Car", "Cat"]', r"\('a'\): .*no label 'Cat'; it has 'Car'"),
        ('[[exclusive]]\nname = "a"\nlabels = ["Car", "Car"]', "'Car' is named twice"),
        ('[[exclusive]]\nname = "a"\nlabels = ["animal", "animal / cat"]', "'animal / cat' is below 'animal'"),
        ('[[exclusive]]\nname = "a"\nlabels = ["new", "Car"]', "some of the labels are about a region"),
        ('[[needs]]\nname = "a"\nlabel = "Car"\nneeds = "Car"', "'Car' needs itself"),
        ('[[minimum_size]]\nname = "a"\ntag = "boxes"\nwidth_px = 3', "no control tag 'boxes'; it has 'box'"),
        ('[[minimum_size]]\nname = "a"\ntag = "box"\nseconds = 3', "seconds does not fit control tag 'box'"),
        ('[[minimum_size]]\nname = "a"\nlabels = ["day"]\nwidth_px = 3', "no size that is known"),
        ('[[pattern]]\nname = "a"\ntag = "box"\nmatches = "a"', "is <RectangleLabels>; a pattern is for texts"),
        (
            '[[exclusive]]\nname = "a"\nlabels = ["Car", "Plate"]\n'
            '[[needs]]\nname = "b"\nlabel = "day"\nneeds = "Plate"\n'
            '[[needs]]\nname = "c"\nlabel = "Plate"\nneeds = "Car"',
            "rules 'b' and 'a' contradict each other: 'day' could never be predicted",
        ),
        (
            '[[field]]\nname = "a"\nfield = "f"\nis = [1, 2]\nallowed = ["Car"]\n'
            '[[field]]\nname = "b"\nfield = "f"\nis = [2, 3]\nforbidden = ["Car"]',
            "rules 'a' and 'b' contradict each other: where f is '2', one allows 'Car'",
        ),
        (
            '[[field]]\nname = "a"\nfield = "f"\nis = 1\nallowed = ["Car"]\n'
            '[[needs]]\nname = "b"\nlabel = "Car"\nneeds = "Plate"',
            "'b' and 'a' contradict each other: 'Car' is allowed where f is '1', and needs 'Plate', which is not",
        ),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_or_contradict_each_other_are_refused(text: str, reason: str) -> None:
    with pytest.raises(RulesError, match=reason):
        bound(text)


def test_all_faults_are_said_at_once_and_the_other_rules_still_apply() -> None:
    file = read_rules(
        '[[needs]]\nname = "a"\nlabel = "Cat"\nneeds = "Car"\n'
        '[[needs]]\nname = "b"\nlabel = "Dog"\nneeds = "Car"\n'
        '[[needs]]\nname = "c"\nlabel = "Plate"\nneeds = "Car"'
    )
    rules = bind_rules(file, CONFIG)
    assert len(rules.faults) == 2
    assert rules.apply([box("Plate", 0.2)], {}, (), lambda *_: 1.0)[0] == [None]


def test_a_label_of_several_control_tags_is_named_with_its_tag() -> None:
    config = parse(
        '<View><Image name="i" value="$i"/>'
        '<Choices name="a" toName="i"><Choice value="x"/><Choice value="y"/></Choices>'
        '<Choices name="b" toName="i"><Choice value="x"/></Choices></View>'
    )
    with pytest.raises(RulesError, match="the control tags 'a', 'b' have a label 'x'"):
        require_fit(read_rules('[[needs]]\nname = "n"\nlabel = "x"\nneeds = "y"'), config)
    rules = require_fit(read_rules('[[needs]]\nname = "n"\nlabel = {tag = "b", label = "x"}\nneeds = "y"'), config)
    left, _ = rules.apply([choices("a", "i", ["x"]), choices("b", "i", ["x"])], {}, (), lambda *_: 1.0)
    assert left == [choices("a", "i", ["x"]), None]


def test_a_label_with_a_slash_is_no_path() -> None:
    config = parse(
        '<View><Image name="i" value="$i"/><Choices name="a" toName="i" choice="multiple">'
        '<Choice value="cat"/><Choice value="cat / dog"/></Choices></View>'
    )
    rules = require_fit(read_rules('[[exclusive]]\nname = "n"\nlabels = ["cat", "cat / dog"]'), config)
    scores = {"cat": 0.6, "cat / dog": 0.9}
    (left,), _ = rules.apply([choices("a", "i", list(scores))], {}, (), lambda _, label: scores[label])
    assert left == choices("a", "i", ["cat / dog"])


def test_things_in_videos_have_the_labels_of_another_control_tag() -> None:
    config = parse(
        '<View><Video name="v" value="$v"/><Labels name="thing" toName="v">'
        '<Label value="Car"/><Label value="Dog"/></Labels><VideoRectangle name="box" toName="v"/></View>'
    )
    tracks = [
        {**track_region("box", "v", (Keyframe(frame=1, corners=(0.1, 0.1, right, 0.3)),), 25.0, (10, 0.4), [name])}
        for name, right in (("Car", 0.2), ("Dog", 0.5), ("Dog", 0.6))
    ]

    def left(file: str) -> list[Region | None]:
        return require_fit(read_rules(file), config).apply(tracks, {"n": 1}, (), lambda *_: 0.5)[0]

    small = '[[minimum_size]]\nname = "s"\n{}\nwidth_percent = 45'
    assert left(small.format('tag = "thing"')) == left(small.format('tag = "box"')) == [None, None, tracks[2]]
    assert left(small.format('labels = ["Dog"]')) == [tracks[0], None, tracks[2]]
    assert left('[[field]]\nname = "f"\nfield = "n"\nis = 1\nallowed = ["Dog"]') == [None, tracks[1], tracks[2]]
    assert left('[[exclusive]]\nname = "e"\nlabels = ["Dog", "Car"]') == [None, tracks[1], tracks[2]]


def test_the_example_in_the_documentation_is_a_file_of_every_kind() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    file = read_rules(page.partition("```toml\n")[2].partition("```")[0])
    assert {kind for kind, _ in file.in_order} == set(RuleFile.model_fields)
