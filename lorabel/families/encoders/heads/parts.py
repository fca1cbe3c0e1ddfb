"""The parts of a video that are understood by different models: its frames, its sound, and what is said in it.

Each part has features of its own model. In `Features` they are the rows of one table, in the order of `PARTS`:

    [1, features of the frames, 0, 0, ...]
    [1, features of the sound, 0, ...]
    [0, 0, 0, ...]                           nothing is said

The first column says whether the video has the part. A missing part is zeros, so it adds nothing to the logits of
a head; see `fit_parts`. Rows are filled up with zeros to the length of the longest.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lorabel.contracts import Content, Input, LabelsInput, Modality, RatingInput
from lorabel.families.encoders.heads.linear_head import Array
from lorabel.feature_contracts import FeaturesInput

PARTS = (Modality.VIDEO, Modality.AUDIO, Modality.TEXT)
# Between the spaces of the models whose features are the rows of one table.
AND = " & "


def has_parts(question: Input) -> bool:
    """Whether a question is about one whole video, and answered by a head on its parts."""
    is_video = [content.modality for content in question.contents] == [Modality.VIDEO]
    return is_video and type(question) in (LabelsInput, RatingInput, FeaturesInput)


def space_of_parts(spaces: Sequence[str]) -> str:
    """Return the space of tables of features, given the spaces of the models."""
    return AND.join(spaces)


def is_of_parts(space: str) -> bool:
    """Whether features of a space are tables of the parts of videos."""
    return AND in space


def as_table(features: Mapping[Modality, Array]) -> Array:
    """Return (parts, 1 + features) float32.

    Args:
        features: (features,) of each part that the video has.
    """
    table = np.zeros((len(PARTS), 1 + max(len(row) for row in features.values())), np.float32)
    for index, part in enumerate(PARTS):
        if part in features:
            table[index, 0] = 1
            table[index, 1 : 1 + len(features[part])] = features[part]
    return table


def with_parts(question: Input, table: Array) -> tuple[Input, Array]:
    """Return a question about a video as one about the parts that it has, and the rows of these parts."""
    indices = [index for index in range(len(PARTS)) if table[index, 0]]
    contents = tuple(Content(modality=PARTS[index], text="") for index in indices)
    return question.model_copy(update={"contents": contents}), table[indices]


def of_width(rows: Array, width: int) -> Array:
    """Return rows with this many columns: filled up with zeros, or without columns for which a head has no use."""
    return np.pad(rows, [(0, 0), (0, max(0, width - rows.shape[1]))])[:, :width]
