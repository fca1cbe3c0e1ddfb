import torch

from lorabel.contracts import Content, MediaRef
from lorabel.families.detection.places import chosen_places
from lorabel.feature_contracts import BoxFeaturesInput


def test_other_places_are_those_that_meet_no_annotated_box() -> None:
    box = (0.1, 0.1, 0.5, 0.5)
    corners = torch.tensor([box, (0.1, 0.15, 0.5, 0.5), (0.6, 0.6, 0.9, 0.9), (0.3, 0.3, 0.3, 0.6)])
    logits = torch.tensor([[3.0], [0.0], [1.0], [9.0]])
    picture = Content(modality="image", media=MediaRef(url="http://host/picture.png"))
    asked = BoxFeaturesInput(contents=(picture,), labels=(("a",),), boxes=((box, 0),))
    chosen = chosen_places(corners, logits, lambda boxes: torch.eye(4)[:, boxes], asked, (1.0, 1.0))
    assert chosen == [0, 2], "the second is the box again, the last has no area"
