"""The lines of an explanation, word by word."""

from lorabel.contracts import Modality
from lorabel.explanation_contracts import ContentWeights, WordWeight
from lorabel.explanations.explanation import ExplainedContent, TagExplanation
from lorabel.explanations.label_nearness import ExplainedRegion, NearLabel
from lorabel.explanations.nearest_tasks import AnnotatedHit
from lorabel.explanations.sentences import MOST_REGIONS, sentences
from lorabel.search.vector_index import Hit

TEXT = "a fine   day, not bad"
WORDS = (
    WordWeight(start=2, end=12, weight=1.25),
    WordWeight(start=14, end=17, weight=-0.5),
    WordWeight(start=18, end=21, weight=0.04),
)


def text(share: float | None = None) -> ExplainedContent:
    return ExplainedContent(Modality.TEXT, None, TEXT, share, ContentWeights(text=TEXT, words=WORDS))


def region(label: str, *near: tuple[str, float]) -> ExplainedRegion:
    return ExplainedRegion((0.1, 0.1, 0.2, 0.2), label, 0.9, tuple(NearLabel(*each) for each in near))


def test_words_for_and_against_an_answer_are_told_with_their_weights() -> None:
    tag = TagExplanation("mood", ("good", "bad"), "good", 0.9, (text(),))
    assert sentences([tag], []) == ['mood: good. For it: "fine day" +1.2. Against it: "not" -0.5.']


def test_shares_are_told_where_a_task_has_several_contents() -> None:
    picture = ExplainedContent(Modality.IMAGE, "a.png", None, 0.7, ContentWeights(heat=((1.0,),)))
    tag = TagExplanation("stars", score=4.04, contents=(picture, text(0.3)))
    (line,) = sentences([tag], [])
    assert line.startswith('stars: 4.0. Shares: image 70 %, text 30 %. For it: "fine day"')


def test_each_box_is_told_with_the_label_that_it_was_nearly_taken_for() -> None:
    regions = (
        region("red circle", ("red circle", 2.0), ("red square", -1.1)),
        region("star", ("circle", 1.0), ("star", 0.5)),
        region("alone", ("alone", 3.0)),
    )
    (line,) = sentences([TagExplanation("box", regions=regions)], [])
    assert line == "box: red circle (next: red square, 3.1 less near); star (next: circle, 0.5 nearer); alone."
    (many,) = sentences([TagExplanation("box", regions=regions * 3)], [])
    assert many.count("next") < MOST_REGIONS and many.endswith("; and 3 more.")


def test_the_nearest_annotated_tasks_are_named_with_what_people_said() -> None:
    nearest = [
        AnnotatedHit(Hit(12, 0.9), {"mood": {"good"}, "topic": {"b", "a"}}),
        AnnotatedHit(Hit(40, 0.8), {}),
    ]
    assert sentences([], nearest) == ["Like task 12 (mood: good; topic: a, b), task 40."]


def test_nothing_is_said_where_nothing_is_explained() -> None:
    assert sentences([TagExplanation("mood", ("good",), reason="no time")], []) == []
