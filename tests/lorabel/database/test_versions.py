import pytest

from lorabel.database import versions
from lorabel.database.tables import ModelVersion
from lorabel.errors import NotFoundError


@pytest.mark.parametrize("name", ["p1.v3", "v3", "3", 3])
def test_a_version_may_be_named_in_a_short_form(name: str | int) -> None:
    assert versions.parse_number(1, name) == 3


@pytest.mark.parametrize("name", ["p2.v3", "latest", "", "p1.v", "²", "v٣", "9" * 20, "9" * 5000, "-1"])
def test_another_projects_version_and_other_names_are_refused(name: str) -> None:
    with pytest.raises(NotFoundError, match="names no version of project 1"):
        versions.parse_number(1, name)


@pytest.mark.parametrize("name", ["p1.v3.h12", "v3.h12", "3.h12"])
def test_the_name_of_heads_is_refused_and_the_version_named(name: str) -> None:
    """It is what Label Studio shows with each prediction."""
    with pytest.raises(NotFoundError, match=r"heads .* name the version p1\.v3,"):
        versions.parse_number(1, name)


def test_a_control_tag_has_a_temperature_only_if_held_out_tasks_could_tell() -> None:
    fitted = {"temperature": 2.0, "reason": ""}
    too_few = {"temperature": 1.0, "reason": "3 held-out tasks, 10 needed"}
    calibrations = {"fitted": fitted, "too few": too_few, "no score": None, "older": {"temperature": 3.0}}
    version = ModelVersion(metrics={"calibration": calibrations})
    assert versions.temperatures(version) == {"fitted": 2.0, "older": 3.0}


def test_an_adapter_for_boxes_from_before_heads_of_boxes_answers_in_place_of_a_head() -> None:
    """Before, the first head after an update took the place of an adapter that it was never compared with."""
    families = {"box": "detector", "kind": "dual_encoder"}
    assert versions.tags_in_place_of_head(ModelVersion(metrics={"families": families})) == {"box"}
    compared = {"families": families, versions.IN_PLACE_OF_HEAD: []}
    assert versions.tags_in_place_of_head(ModelVersion(metrics=compared)) == frozenset()


def test_an_adapter_of_tracks_belongs_to_the_pipeline_that_was_called_tracker_before() -> None:
    version = ModelVersion(metrics={"families": {"label": "tracker", "kind": "dual_encoder"}})
    assert versions.families(version) == {"label": "track_pipeline", "kind": "dual_encoder"}


@pytest.mark.parametrize(
    ("name", "first", "is_as_new"),
    [
        ("p1.v3.h7", "p1.v3.h7", True),
        ("p1.v3.h8", "p1.v3.h7", True),
        ("p1.v3.h6", "p1.v3.h7", False),
        ("p1.v3.h7", "p1.v3", False),
        ("p1.v3", "p1.v3.h7", False),
        ("p1.v3.h8.r2", "p1.v3.h7.r2", True),
        ("p1.v3.h8.r1", "p1.v3.h7.r2", False),
        ("p1.v3.h8.r3", "p1.v3.h7.r2", False),
        ("p1.v3.h8", "p1.v3.h7.r2", False),
        ("p1.v3.h8.r2", "p1.v3.h7", False),
        ("p1.v3.r2", "p1.v3.r2", True),
        ("p1.v3.r2", "p1.v3", False),
        ("p1.v4.h8.r2", "p1.v3.h7.r2", False),
        ("resnet.r50", "resnet", False),
    ],
)
def test_a_prediction_is_current_by_newer_heads_and_the_same_rules(name: str, first: str, is_as_new: bool) -> None:
    assert versions.is_current(name, first) == is_as_new


@pytest.mark.parametrize(
    ("name", "version", "rules"),
    [
        ("p12.v3.h7.r2", "p12.v3", 2),
        ("p12.v3.r10", "p12.v3", 10),
        ("p12.v3.h7", "p12.v3", 0),
        ("p12.v3", "p12.v3", 0),
        ("resnet.r50", "resnet.r50", 0),
        ("p12.v3.r2.h7", "p12.v3.r2.h7", 0),
    ],
)
def test_a_served_name_has_a_version_and_the_number_of_the_rules(name: str, version: str, rules: int) -> None:
    assert (versions.without_heads(name), versions.rules_number(name)) == (version, rules)


@pytest.mark.parametrize(
    ("name", "other", "expected"),
    [
        ("p1.v2.h7", "p1.v2.h8.r3", "p1.v2.h7.r3"),
        ("p1.v2.h7.r2", "p1.v2.h8.r3", "p1.v2.h7.r3"),
        ("p1.v2.r2", "p1.v2", "p1.v2"),
        ("p1.v2", "p1.v2", "p1.v2"),
    ],
)
def test_a_name_with_the_rules_of_another(name: str, other: str, expected: str) -> None:
    assert versions.with_rules_of(name, other) == expected
