from collections import Counter

from lorabel.demo.annotator import CHECKPOINTS, PICTURES, Round, has_improved
from lorabel.demo.project import LABEL_CONFIG, picture_of, pictures, right_answer
from lorabel.problems.binding import bind


def test_one_binding_serves_the_label_config() -> None:
    bound = bind(LABEL_CONFIG)
    assert len(bound.bindings) == 1
    assert bound.unclaimed == ()


def test_every_right_answer_is_a_choice_and_no_choice_is_rare() -> None:
    answers = Counter(right_answer(picture) for picture in pictures(PICTURES))
    labels = [label.value for label in bind(LABEL_CONFIG).config.controls[0].labels]
    assert sorted(answers) == sorted(labels)
    assert min(answers.values()) >= PICTURES // 6


def test_the_picture_of_a_task_is_found_by_its_file_name() -> None:
    data = {"image": "/data/upload/2/b3d4456e-print-017.jpg"}
    assert picture_of(data, 20) == pictures(20)[17]


def test_the_loop_improved_if_a_new_version_raised_accuracy_from_chance() -> None:
    def two_rounds(first: int, last: int, version: str = "p1.v1.h9") -> list[Round]:
        return [Round(0, "p1.v0", first, 40, None, None), Round(20, version, last, 40, 0.1, 5.0)]

    assert has_improved(two_rounds(14, 37))
    assert not has_improved(two_rounds(14, 35)), "0.875 is not enough"
    assert not has_improved(two_rounds(30, 37)), "the base model knew the rule before"
    assert not has_improved(two_rounds(14, 37, "p1.v0")), "nothing was learned"
    assert CHECKPOINTS[-1] < PICTURES
