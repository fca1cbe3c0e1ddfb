"""Which problem serves which control tag where several problems could."""

import pytest

from lorabel.problems.binding import bind

LABELS = '<Label value="Car"/><Label value="Bus"/>'
IMAGE = '<Image name="image" value="$image"/>'
TEXT = '<TextArea name="text" toName="image" perRegion="true"/>'
BOX = '<Rectangle name="shape" toName="image"/>'


def tag(kind: str, name: str, smart: str = "false") -> str:
    return f'<{kind} name="{name}" toName="image" smart="{smart}">{LABELS}</{kind}>'


RECTANGLES, POLYGONS, BRUSH = (
    tag("RectangleLabels", "box"),
    tag("PolygonLabels", "polygon"),
    tag("BrushLabels", "brush"),
)
SMART_RECTANGLES, CLICK = tag("RectangleLabels", "box", "true"), tag("KeyPointLabels", "click", "true")


@pytest.mark.parametrize(
    ("tags", "served"),
    [
        # A shape has a text: lines of text are read, unless its smart tool asks for a brush.
        ((SMART_RECTANGLES, TEXT), {"text_in_pictures": ("box", "text")}),
        ((SMART_RECTANGLES, POLYGONS, TEXT), {"text_in_pictures": ("box", "text")}),
        (
            (SMART_RECTANGLES, BRUSH, TEXT),
            {"interactive_segmentation": ("box",), "segmentation": ("brush",)},
        ),
        (
            (CLICK, BRUSH, RECTANGLES, TEXT),
            {
                "interactive_segmentation": ("click",),
                "segmentation": ("brush",),
                "text_in_pictures": ("box", "text"),
            },
        ),
        (
            (CLICK, SMART_RECTANGLES, POLYGONS, TEXT),
            {"interactive_segmentation": ("click", "box"), "segmentation": ("polygon",)},
        ),
        ((POLYGONS, TEXT), {"text_in_pictures": ("polygon", "text")}),
        # A line is predicted once, with one shape and one text.
        ((RECTANGLES, POLYGONS, TEXT), {"text_in_pictures": ("box", "text")}),
        ((BOX, RECTANGLES, TEXT), {"text_in_pictures": ("shape", "text"), "boxes": ("box",)}),
        # A box is predicted once.
        ((tag("Labels", "a"), tag("Labels", "b"), BOX), {"boxes": ("a", "shape")}),
    ],
)
def test_each_control_tag_is_served_once_or_left_to_people_with_a_reason(
    tags: tuple[str, ...], served: dict[str, tuple[str, ...]]
) -> None:
    bound = bind(f"<View>{IMAGE}{''.join(tags)}</View>")
    assert {binding.name: binding.claims for binding in bound.bindings} == served
    claimed = [name for binding in bound.bindings for name in binding.claims]
    left = [unclaimed.control.name for unclaimed in bound.unclaimed]
    assert sorted(claimed + left) == sorted(control.name for control in bound.config.controls)
    assert all(unclaimed.reason for unclaimed in bound.unclaimed)
