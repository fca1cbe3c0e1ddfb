"""Videos in which coloured things appear and go at known frames. The demo's model knows the colours' names."""

from collections.abc import Iterable

from lorabel.demo import MODEL_FOLDER
from lorabel.labeling.regions import video_segment
from lorabel.labeling.video_frames import frames_at
from tests.e2e.courses import Course, LabeledTask, data_url
from tests.video_scenes import FRAMES_PER_S, NAMES, drawn_video

TASKS = 24


def labeled_tasks(numbers: Iterable[int]) -> list[LabeledTask]:
    """The drawn videos with these numbers."""
    return [_task(number) for number in numbers]


def _task(number: int) -> LabeledTask:
    video, marked = drawn_video(number)
    result = [
        video_segment("seen", "video", frames_at((start, end), 0.0, FRAMES_PER_S), [NAMES[label]])
        for start, end, label in marked
    ]
    return {"video": data_url(video, "video/mp4")}, result


COURSE = Course(
    label_config='<View><Video name="video" value="$video"/><TimelineLabels name="seen" toName="video">'
    + "".join(f'<Label value="{name}"/>' for name in NAMES)
    + "</TimelineLabels></View>",
    make_tasks=lambda: labeled_tasks(range(TASKS)),
    variables=lambda _: {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"},
    primary={"seen": "f1"},
)
