"""Which annotations say that there is nothing for a control tag, where several mark places in one object.

An annotator who has drawn boxes and no mask may not have looked for masks, and likewise with two `<Labels>` over
one text. So such an annotation does not say that there is none. One without any marked place says that there is
nothing.
"""

from collections.abc import Collection, Sequence

from lorabel.errors import MissingTargetError
from lorabel.labeling.label_config import ControlTag
from lorabel.labeling.regions import Region

SHAPES = ("rectangle", "ellipse", "polygon", "brush", "bitmask", "keypoint", "vector")
# Names of control tags that mark places, in small letters. The type of their regions is the same.
ON_PICTURES = frozenset({*SHAPES, *(f"{shape}labels" for shape in SHAPES)})
ON_TEXTS = frozenset({"labels", "hypertextlabels", "paragraphlabels"})
ON_VIDEOS = frozenset({"labels", "timelinelabels", "videorectangle"})


def rivals_of(control: ControlTag, claims: Collection[str], tags: Collection[str]) -> tuple[str, ...]:
    """Return the names of the other control tags that mark places in the same object.

    Args:
        claims: what the binding of the control tag claims.
        tags: ON_PICTURES, ON_TEXTS or ON_VIDEOS.
    """
    return tuple(tag.name for tag in control.siblings if tag.name not in claims and tag.tag.lower() in tags)


def refuse_unused(regions: Sequence[Region], claims: Collection[str], to_name: str, tags: Collection[str]) -> None:
    """Check that an annotation does not mark places with other control tags alone.

    Regions of control tags that the label config no longer has count, too: they may be what a claimed one was
    called.

    Args:
        claims: the control tags of a binding.
        to_name: the object tag.
        tags: ON_PICTURES, ON_TEXTS or ON_VIDEOS.

    Raises:
        MissingTargetError: others were used, and none of the claimed control tags.
    """
    used = {region.get("from_name") for region in regions}
    others = [
        region.get("from_name")
        for region in regions
        if str(region.get("type")) in tags and region.get("to_name") == to_name
    ]
    if used.isdisjoint(claims) and others:
        raise MissingTargetError(
            f"{', '.join(map(repr, claims))} was not used, but {', '.join(map(repr, dict.fromkeys(others)))} was; "
            "so it is not known whether there is nothing to mark"
        )
