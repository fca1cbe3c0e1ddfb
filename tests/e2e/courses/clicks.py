"""The scenes of `masks` in a project where clicks become masks, too: both learn from what is submitted."""

from dataclasses import replace

from tests.e2e.courses import masks
from tests.e2e.courses.boxes import GRADE, SQUARE

COURSE = replace(
    masks.COURSE,
    label_config=masks.COURSE.label_config.replace(
        "</View>",
        f'<KeyPointLabels name="click" toName="image" smart="true"><Label value="{GRADE}"/>'
        f'<Label value="{SQUARE}"/></KeyPointLabels></View>',
    ),
    primary={"click": "mean_iou"},
)
