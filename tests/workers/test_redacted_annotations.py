"""With REDACT, what a run reads from Label Studio's API, and lines that were read in pictures, are masked."""

from lorabel.feature_contracts import Features
from lorabel.label_studio.records import AnnotatedTask
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
