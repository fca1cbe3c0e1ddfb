"""Drawn videos with moving shapes. One label says what moves; the other, `grade A`, is a red circle.

Boxes are drawn with a margin around the thing, as in the course of boxes, so that a training run can be better
than the head.
"""

import numpy as np

from lorabel.demo import DETECTOR_FOLDER
from lorabel.families.tracking.keyframes import chosen
from lorabel.labeling.regions import Region
from lorabel.labeling.video_regions import track_region
from lorabel.space_contracts import Corners
from lorabel.track_contracts import Keyframe, Track
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.moving_scenes import MovingScene, random_scenes

GRADE, SQUARE = "grade A", "blue square"
NAMES = ("red circle", SQUARE)
"""What the things of the two labels are called."""
RATE, FRAMES = 10, 20
TASKS = 48
MARGIN = 0.25
TOLERANCE = 0.003


def tracks_of(scene: MovingScene, margin: float = 0.0) -> list[Region]:
    """The right result of a video.

    Args:
        margin: on each side of a thing, as a part of its width and height.
    """
    extent = (scene.frames, scene.frames / RATE)
    return [
        track_region("box", "video", _keyframes(track, margin), RATE, extent, [(GRADE, SQUARE)[track.label]])
        for track in scene.tracks(NAMES)
    ]


def _keyframes(track: Track, margin: float) -> list[Keyframe]:
    """As few as an annotator would set; none is needed where a thing moves evenly."""
    all_keyframes = [key.model_copy(update={"corners": _widened(key.corners, margin)}) for key in track.keyframes]
    frames = np.array([key.frame for key in all_keyframes])
    corners = np.array([key.corners for key in all_keyframes])
    return [all_keyframes[index] for index in chosen(frames, corners, TOLERANCE)]


def _widened(corners: Corners, margin: float) -> Corners:
    left, top, right, bottom = corners
    x, y = margin * (right - left), margin * (bottom - top)
    return max(0.0, left - x), max(0.0, top - y), min(1.0, right + x), min(1.0, bottom + y)


def _tasks() -> list[LabeledTask]:
    return [
        ({"video": data_url(scene.video, "video/mp4")}, tracks_of(scene, MARGIN))
        for scene in random_scenes(5, TASKS, FRAMES, RATE)
    ]


COURSE = Course(
    label_config='<View><Video name="video" value="$video" frameRate="10"/>'
    '<VideoRectangle name="box" toName="video"/>'
    f'<Labels name="label" toName="video"><Label value="{GRADE}"/><Label value="{SQUARE}"/></Labels></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_DETECTOR": f"local-dir:{DETECTOR_FOLDER}"},
    primary={"label": "idf1"},
)
