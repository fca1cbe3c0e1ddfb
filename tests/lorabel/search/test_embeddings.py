from lorabel.contracts import MediaRef, Modality
from lorabel.problems.binding import bind
from lorabel.search import embeddings
from tests.backend import requests


def test_a_question_has_each_content_that_a_control_tag_reads_once() -> None:
    bound = bind(requests.TWO_PICTURES)
    question = embeddings.question(bound, {"left": "a.png", "right": "b.png"})
    assert [content.media for content in question.contents] == [MediaRef(url="a.png"), MediaRef(url="b.png")]
    assert question.modalities == {Modality.IMAGE, Modality.TEXT}
    same = embeddings.question(bind(requests.TWO_TAGS), {"image": "a.png"})
    assert len(same.contents) == 1
    half = embeddings.question(bound, {"left": "a.png"})
    assert half.contents == same.contents
