"""Masks in annotations and predictions, which several problems read and write."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lorabel.errors import MissingTargetError
from lorabel.labeling import bit_masks
from lorabel.labeling.image_regions import corners_of, image_region, picture_region, size_of
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region
from lorabel.mask_contracts import Mask, Masks, MasksTarget, Runs
from lorabel.problems._answers import known_labels, list_in, regions_of, shown

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
    Their labels are `incomplete`: their places are not known. A mask that was erased is nowhere.

    Raises:
        MissingTargetError: no region can be used, or no size of the picture is that of most.
    """
    regions = [region for region in regions_of(result) if region.get("from_name") == answer.name]
    by_size: dict[tuple[int, int], list[tuple[Runs, list[int]]]] = {}
    left_out: list[str] = []
    incomplete: set[int] = set()
    for region in regions:
        labels, reasons = _labels_of(region, answer)
        try:
            size = _size(region)
            runs = _runs(region, answer, *size)
        except MissingTargetError as error:
            reasons.append(str(error))
            incomplete |= {*labels}
        else:
            if len(runs) < 2:
                reasons.append(f"a mask of {answer.name!r} is empty: it has no pixel inside")
            else:
                by_size.setdefault(size, []).append((runs, labels))
        left_out += dict.fromkeys(reasons)
    masks_of = {
        size: [(runs, label) for runs, labels in size_masks for label in labels]
        for size, size_masks in by_size.items()
    }
    first, *others = sorted(masks_of.items(), key=lambda item: -len(item[1])) or [((0, 0), [])]
    (width, height), masks = first
    if regions and not masks:
        raise MissingTargetError("; ".join(dict.fromkeys(left_out)))
    if others and len(others[0][1]) == len(masks):
        raise MissingTargetError(f"the regions of {answer.name!r} are on pictures of {len(by_size)} sizes")
    left_out += [
        f"a region of {answer.name!r} is on a picture of {size[0]} x {size[1]} pixels, most on {width} x {height}"
        for size, _ in others
    ]
    incomplete |= {label for _, size_masks in others for _, label in size_masks}
    unlabelled = tuple(runs for runs, labels in by_size.get((width, height), ()) if not labels)
    return MasksTarget(tuple(masks), width, height, tuple(left_out), unlabelled, tuple(sorted(incomplete)))


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


def _labels_of(region: Region, answer: ControlTag) -> tuple[list[int], list[str]]:
    """The labels of a region, as indices, and why others of its labels cannot be used."""
    try:
        names = list_in(value_of(region), answer.tag.lower(), answer.name)
    except MissingTargetError as error:
        return [], [str(error)]
    if not names:
        return [], [f"a region of {answer.name!r} has no label"]
    return known_labels(answer.labels, names, answer.name)


def _runs(region: Region, answer: ControlTag, width: int, height: int) -> Runs:
    """The mask of an annotation's region; it may be empty. Raises MissingTargetError if it cannot be read."""
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
    return bit_masks.runs_of(mask)


def _size(region: Region) -> tuple[int, int]:
    if (size := size_of(region)) is None:
        sides = region.get("original_width"), region.get("original_height")
        raise MissingTargetError(f"the picture's size is {shown(sides)}, expected whole numbers of pixels")
    if size[0] * size[1] > bit_masks.MOST_PIXELS:
        raise MissingTargetError(
            f"the picture has {size[0]} x {size[1]} pixels, more than {bit_masks.MOST_PIXELS}"
        )
    return size
