"""Drawn receipts with their lines, in which an amount is the price of an item, or the total of a shop."""

from lorabel.labeling.regions import RIGHT, Region, relation
from lorabel.problems.binding import bind
from lorabel.problems.text_in_pictures import TextInPictures
from lorabel.space_contracts import TextLine
from tests.receipts import HEIGHT, LABELS, WIDTH, Receipt

PRICE_OF, TOTAL_OF = RELATIONS = ("price of", "total of")
LABEL_CONFIG = (
    '<View><Image name="image" value="$image"/><Relations>'
    + "".join(f'<Relation value="{name}"/>' for name in RELATIONS)
    + '</Relations><Labels name="label" toName="image">'
    + "".join(f'<Label value="{name}"/>' for name in LABELS)
    + '</Labels><Rectangle name="box" toName="image"/>'
    '<TextArea name="text" toName="image" editable="true" perRegion="true" displayMode="region-list"/></View>'
)


def result_of(receipt: Receipt) -> list[Region]:
    """The right result: the regions of all lines, with ids, and the relations."""
    (binding,) = (each for each in bind(LABEL_CONFIG).bindings if isinstance(each, TextInPictures))
    result, links, shop = list[Region](), list[Region](), ""
    for number, line in enumerate(receipt.lines):
        id_, before = f"line{number}", receipt.lines[number - 1]
        read = TextLine(corners=line.corners, text=line.text)
        result += binding.tags.regions("image", read, line.label, (WIDTH, HEIGHT), id_)
        if line.label == "Shop":
            shop = id_
        if before.label == "Item" and line.label is None and number:
            links.append(relation(id_, f"line{number - 1}", RIGHT, [PRICE_OF]))
        if line.label == "Total":
            links.append(relation(id_, shop, RIGHT, [TOTAL_OF]))
    return [*result, *links]
