"""With REDACT, what a run reads from Label Studio's API, and lines that were read in pictures, are masked."""

from typing import Any

from lorabel.feature_contracts import Features
from lorabel.label_studio.records import AnnotatedTask
from lorabel.labeling.redacted_bodies import RedactedBody
from lorabel.redaction import Redactor
from lorabel.space_contracts import TextLine
from workers.feature_collection import _masked
from workers.reconcile import _received

EMAIL = "anna.bell@mail.example.com"
MASK = "xxxx.xxxx@xxxx.xxxxxxx.xxx"
REDACTOR = Redactor(["email"], {})


def test_annotations_of_the_api_are_masked_as_their_task_is() -> None:
    text = f"Mail {EMAIL} now"
    start = text.index("bell@mail")
    value = {"start": start, "end": start + len("bell@mail"), "text": "bell@mail", "labels": ["Mail"]}
    annotation = {
        "id": 7,
        "result": [{"from_name": "label", "value": value}],
        "updated_at": "2026-11-22T05:12:14Z",
    }
    prediction = {"id": 5, "result": [{"value": {"text": [f"write {EMAIL}"]}}]}
    task = AnnotatedTask(1, {"text": text}, [annotation], predictions=[prediction])
    (received,) = _received(task, REDACTOR)
    assert received.task_data == {"text": f"Mail {MASK} now"}
    assert received.annotation["result"][0]["value"] == {**value, "text": "xxxx@xxxx"}
    assert received.annotation["updated_at"] == annotation["updated_at"]
    assert received.predictions[0]["result"][0]["value"]["text"] == [f"write {MASK}"]
    (as_it_is,) = _received(task, Redactor([], {}))
    assert as_it_is.task_data == {"text": text}


def test_lines_that_were_read_in_pictures_are_masked() -> None:
    line = TextLine(corners=(0.0, 0.0, 1.0, 1.0), text=f"to {EMAIL}", probability=0.9)
    features = Features(space="s", dim=0, float16="", logits=(), lines=(line,))
    masked = _masked(features, REDACTOR)
    assert isinstance(masked, Features) and [each.text for each in masked.lines] == [f"to {MASK}"]
    assert _masked(f"cannot read {EMAIL}", REDACTOR) == f"cannot read {MASK}"


def test_answers_that_are_no_spans_are_not_taken_for_parts_of_secrets() -> None:
    counted = {"from_name": "count", "type": "textarea", "value": {"text": ["4", "mail", "com"]}}
    typed = {"from_name": "note", "type": "textarea", "value": {"text": "example"}, "meta": {"text": ["bell"]}}
    body = {"data": {"text": f"write {EMAIL}, or call 4 times"}, "annotation": {"result": [counted, typed]}}
    assert RedactedBody(REDACTOR).of(body)["annotation"] == {"result": [counted, typed]}


def test_a_span_is_masked_as_its_own_task_says() -> None:
    def spans(*texts: str) -> list[dict[str, Any]]:
        return [{"value": {"start": "/p[1]", "startOffset": 2, "text": text}} for text in texts]

    tasks = [{"data": {"text": f"<p>to {EMAIL}</p>"}}, {"data": {"text": "<p>The bell rings in a mail</p>"}}]
    redacted = RedactedBody(REDACTOR).of({"tasks": tasks, "result": spans("bell@mail", "bell rings", "to", "be")})
    texts = [region["value"]["text"] for region in redacted["result"]]
    assert texts == ["xxxx@xxxx", "bell rings", "to", "be"]
