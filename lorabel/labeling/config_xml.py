"""Label config XML as Label Studio's editor reads it, rewritten for readers that are stricter.

    <text NAME="t" valuetype="url">$t</text>  ->  <Text name="t" valueType="url" value="$t"/>

The editor ignores the case of the names of tags and attributes, and takes the text between a tag's ends for its
`value` (1.23.2, `attrsToProps` and `tagIntoObject` in libs/editor/src/core/Tree.tsx). The SDK does not.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from xml.etree import ElementTree
from xml.sax.saxutils import escape

# The names as the SDK and the docs write them.
TAG_NAMES = (
    ("Audio", "AudioPlus", "Bitmask", "BitmaskLabels", "Brush", "BrushLabels", "Bucket", "Channel", "Chat")
    + ("Choice", "Choices", "Collapse", "DateTime", "Ellipse", "EllipseLabels", "Filter", "Header", "HyperText")
    + ("HyperTextLabels", "Image", "KeyPoint", "KeyPointLabels", "Label", "Labels", "List", "MagicWand")
    + ("Markdown", "Number", "OcrLabels", "Pairwise", "ParagraphLabels", "Paragraphs", "Pdf", "Polygon")
    + ("PolygonLabels", "Ranker", "Rating", "ReactCode", "Rectangle", "RectangleLabels", "Relation", "Relations")
    + ("Repeater", "Shortcut", "Style", "Table", "Taxonomy", "Text", "TextArea", "TimeSeries", "TimeSeriesLabels")
    + ("TimelineLabels", "Vector", "VectorLabels", "Video", "VideoRectangle", "VideoVector", "VideoVectorLabels")
    + ("View",)
)
ATTRIBUTE_NAMES = (
    "allowNested",
    "apiUrl",
    "indexFlag",
    "maxRating",
    "perRegion",
    "toName",
    "valueList",
    "valueType",
) + ("visibleWhen", "whenChoiceValue", "whenLabelValue", "whenTagName")
HYPERTEXT = "HyperText"
_TAGS = MappingProxyType({name.lower(): name for name in TAG_NAMES})
_ATTRIBUTES = MappingProxyType({name.lower(): name for name in ATTRIBUTE_NAMES})


class Attributes(Mapping[str, str]):
    """The attributes of a tag, found by their names in any case. Immutable."""

    def __init__(self, attributes: Mapping[str, str]) -> None:
        self._by_name = {name.lower(): value for name, value in attributes.items()}

    def __getitem__(self, name: str) -> str:
        return self._by_name[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)


def read(xml: str) -> ElementTree.Element:
    """Parse a label config, and write its names and values as the SDK reads them.

    Raises:
        xml.etree.ElementTree.ParseError: this is no XML.
    """
    root = ElementTree.fromstring(xml)
    for element in root.iter():
        element.tag = _TAGS.get(element.tag.lower(), element.tag)
        names = ((_ATTRIBUTES.get(name.lower(), name.lower()), value) for name, value in element.attrib.items())
        element.attrib = dict(names)
        if text := _inner_xml(element):
            element.set("value", text)
    return root


def headers(root: ElementTree.Element) -> dict[str, str]:
    """By the name of each element the value of the last `<Header>` before it, or else of the first one."""
    values = [element.get("value", "").strip() for element in root.iter("Header")]
    by_name, header = {}, values[0] if values else ""
    for element in root.iter():
        if element.tag == "Header":
            header = element.get("value", "").strip()
        elif element.get("name"):
            by_name[element.attrib["name"]] = header
    return by_name


def paths(
    element: ElementTree.Element, above: tuple[ElementTree.Element, ...] = ()
) -> Iterator[tuple[str | None, tuple[ElementTree.Element, ...]]]:
    """For each element its `name` and the path to it: the elements around it, the outermost first, and itself."""
    path = (*above, element)
    yield element.get("name"), path
    for child in element:
        yield from paths(child, path)


def _inner_xml(element: ElementTree.Element) -> str:
    """What stands between a tag's ends, where the editor takes it for the tag's value; else an empty text."""
    if len(element) and element.tag != HYPERTEXT:
        return ""
    children = (ElementTree.tostring(child, encoding="unicode") for child in element)
    return "".join((escape(element.text or ""), *children)).strip()
