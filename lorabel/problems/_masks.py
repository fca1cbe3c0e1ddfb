"""Masks in annotations and predictions, which several problems read and write."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lorabel.errors import MissingTargetError
from lorabel.labeling import bit_masks
from lorabel.labeling.image_regions import corners_of, image_region, picture_region, size_of
from lorabel.labeling.label_config import ControlTag, find_label
from lorabel.labeling.regions import Region
from lorabel.mask_contracts import Mask, Masks, MasksTarget, Runs
from lorabel.problems._answers import list_in, regions_of, shown

# Control tags that can be a smart tool for masks -> the key of the labels in the values of their regions.
PROMPT_TAGS: Mapping[str, str] = MappingProxyType(
    {"KeyPointLabels": "keypointlabels", "RectangleLabels": "rectanglelabels"}
)
# Control tags whose regions can be a mask, the most exact first.
ANSWER_TAGS = ("BrushLabels", "PolygonLabels", "RectangleLabels")


def answer_tag(control: ControlTag) -> ControlTag | None:
    """Return the control tag that the masks of a smart tool are regions of; None if it asks for no mask."""
    if control.tag not in PROMPT_TAGS or [tag.tag for tag in control.objects] != ["Image"]:
        return None
    tags = [control, *control.siblings]
    answer = next((tag for kind in ANSWER_TAGS for tag in tags if tag.tag == kind), None)
    if answer is None or not control.is_smart or answer.name == control.name:
        return None
    return None if control.tag == "RectangleLabels" and frames_text(control, answer) else answer


def frames_text(control: ControlTag, answer: ControlTag) -> bool:
    """Whether what is drawn frames text: each region has a text, and no mask is brushed or clicked.

    Args:
        answer: the control tag that masks would be regions of.
    """
    has_text = any(tag.tag == "TextArea" and tag.is_per_region for tag in control.siblings)
    return has_text and answer.tag != "BrushLabels" and not are_clicked(control.siblings)


def are_clicked(controls: Sequence[ControlTag]) -> bool:
    """Whether one of the control tags asks for masks by clicks."""
    return any(tag.tag == "KeyPointLabels" and tag.is_smart for tag in controls)


def target_of(result: Sequence[Region], answer: ControlTag) -> MasksTarget:
    """Return the masks of an annotation; none if it has no region of the control tag.

    Regions that cannot be read, or are on a picture of another size than most, are left out; `left_out` says why.

    Raises:
        MissingTargetError: no region can be read, or no size of the picture is that of most.
    """
    regions = [region for region in regions_of(result) if region.get("from_name") == answer.name]
    by_size: dict[tuple[int, int], list[tuple[Runs, int]]] = {}
    left_out: list[str] = []
    for region in regions:
        try:
            size = _size(region)
            found = [(_runs(region, answer, *size), label) for label in _label_indices(region, answer)]
        except MissingTargetError as error:
            left_out.append(str(error))
        else:
            by_size.setdefault(size, []).extend(found)
    if regions and not by_size:
        raise MissingTargetError("; ".join(dict.fromkeys(left_out)))
    first, *others = sorted(by_size.items(), key=lambda item: -len(item[1])) or [((0, 0), [])]
    (width, height), masks = first
    if others and len(others[0][1]) == len(masks):
        raise MissingTargetError(f"the regions of {answer.name!r} are on pictures of {len(by_size)} sizes")
    left_out += [
        f"a region of {answer.name!r} is on a picture of {size[0]} x {size[1]} pixels, most on {width} x {height}"
        for size, _ in others
    ]
    return MasksTarget(tuple(masks), width, height, tuple(left_out))


def mask_region(mask: Mask, output: Masks, answer: ControlTag, to_name: str) -> Region | None:
    """Return a mask as a region of the answering control tag; None if the mask is empty."""
    if len(mask.runs) < 2:
        return None
    size, kind = (output.width, output.height), answer.tag.lower()
    labels: dict[str, Any] = {kind: [answer.labels[mask.label].value]}
    if answer.tag == "BrushLabels":
        value = {"format": "rle", "rle": bit_masks.encode(mask.runs), **labels}
        return picture_region(answer.name, to_name, kind, size, value)
    pixels = bit_masks.mask_of(mask.runs, *size)
    if answer.tag == "PolygonLabels":
        points = bit_masks.outline(pixels, output.tolerance_px)
        percent = [[100 * x / output.width, 100 * y / output.height] for x, y in points]
        return picture_region(answer.name, to_name, kind, size, {"points": percent, "closed": True, **labels})
    return image_region(answer.name, to_name, kind, bit_masks.box_of(pixels), size, labels)


def value_of(region: Region) -> dict[str, Any]:
    """Return the value of a region. Raises MissingTargetError if it is no object."""
    value = region.get("value")
    if not isinstance(value, dict):
        raise MissingTargetError(f"the value of a region is {shown(value)}, expected an object")
    return value


def _label_indices(region: Region, answer: ControlTag) -> list[int]:
    names = list_in(value_of(region), answer.tag.lower(), answer.name)
    if not names:
        raise MissingTargetError(f"a region of {answer.name!r} has no label")
    indices = [find_label(answer.labels, name) if isinstance(name, str) else None for name in names]
    if None in indices:
        raise MissingTargetError(
            f"{answer.name!r} was answered {shown(names)}, which the label config no longer has"
        )
    return list(dict.fromkeys(index for index in indices if index is not None))


def _runs(region: Region, answer: ControlTag, width: int, height: int) -> Runs:
    """The mask of an annotation's region. Raises MissingTargetError if it is empty."""
    value = value_of(region)
    if answer.tag == "BrushLabels":
        mask = bit_masks.decode(value.get("rle"), width, height)
    elif answer.tag == "PolygonLabels":
        corners_of(region)  # refuses what has no area
        points = [(x * width / 100, y * height / 100) for x, y in value["points"]]
        mask = bit_masks.fill_polygon(points, width, height)
    else:
        left, top, right, bottom = corners_of(region)
        corners = [(left * width, top * height), (right * width, top * height)]
        corners += [(right * width, bottom * height), (left * width, bottom * height)]
        mask = bit_masks.fill_polygon(corners, width, height)
    runs = bit_masks.runs_of(mask)
    if len(runs) < 2:
        raise MissingTargetError(f"a mask of {answer.name!r} is empty: it has no pixel inside")
    return runs


def _size(region: Region) -> tuple[int, int]:
    if (size := size_of(region)) is None:
        sides = region.get("original_width"), region.get("original_height")
        raise MissingTargetError(f"the picture's size is {shown(sides)}, expected whole numbers of pixels")
    if size[0] * size[1] > bit_masks.MOST_PIXELS:
        raise MissingTargetError(
            f"the picture has {size[0]} x {size[1]} pixels, more than {bit_masks.MOST_PIXELS}"
        )
    return size
