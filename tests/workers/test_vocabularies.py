"""The words of a project follow its annotations, as the events tell them."""

from typing import Any

from lorabel.database import instructions, projects
from lorabel.database.store import Store
from lorabel.database.tables import Annotation, Project
from lorabel.labeling.regions import textarea
from lorabel.problems.instructions import WORDS
from tests.workers.events import PROJECT, annotation, at, deletion, put
from workers.collect import apply_pending

CONFIG = '<View><Audio name="audio" value="$audio"/><TextArea name="text" toName="audio"/></View>'


def corrected(
    number: int, text: str, shown: str | None, project_id: int = PROJECT, **changed: Any
) -> dict[str, Any]:
    """The event of an annotation; Label Studio names the prediction that was shown if `shown` is a text."""
    event = annotation(number, number, "", number, **changed)
    event["annotation"]["result"] = [textarea("text", "audio", [text])]
    event["annotation"] |= {"parent_prediction": None, "prediction": {}}
    if shown is not None:
        prediction = {"id": number, "result": [textarea("text", "audio", [shown])], "model_version": "p1.v0"}
        event["annotation"] |= {"parent_prediction": number, "prediction": prediction}
    event["task"]["data"] = {"audio": "/data/upload/1/talk.wav"}
    event["project"] |= {"id": project_id, "label_config": CONFIG}
    return event


def words(store: Store, project_id: int = PROJECT) -> Any:
    with store.read() as session:
        return instructions.parameters(session.get_one(Project, project_id))[WORDS]


def test_words_are_kept_at_once_of_every_project_its_own(store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=CONFIG)
    projects.upsert(store, PROJECT + 1, label_config=CONFIG)
    assert words(store) == {}
    put(
        store,
        corrected(1, "Call Zorvek now.", "Call four now."),
        corrected(2, "Zorvek met Tashnovi.", "he met her"),
    )
    put(store, corrected(3, "Brelquin", "barrel", PROJECT + 1), project_id=PROJECT + 1)
    apply_pending(store)
    assert words(store) == {"text": ["Zorvek", "Tashnovi"]}
    assert words(store, PROJECT + 1) == {"text": ["Brelquin"]}


def test_all_words_count_where_it_is_not_known_what_was_shown(store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=CONFIG)
    put(store, corrected(1, "Call Zorvek.", None), corrected(2, "Call Tashnovi.", "Call nobody."))
    apply_pending(store)
    assert words(store) == {"text": ["Tashnovi", "Call", "Zorvek"]}


def test_words_of_deleted_skipped_and_changed_annotations_are_forgotten(store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=CONFIG)
    put(store, *(corrected(number, name, "a") for number, name in enumerate(("Ada", "Bo", "Cy"), start=1)))
    apply_pending(store)
    assert words(store) == {"text": ["Cy", "Bo", "Ada"]}
    put(store, deletion(1))
    put(store, corrected(2, "Bob", "a", action="ANNOTATION_UPDATED", updated_at=at(20)))
    put(store, corrected(3, "Cy", "a", action="ANNOTATION_UPDATED", updated_at=at(30), was_cancelled=True))
    apply_pending(store)
    assert words(store) == {"text": ["Bob"]}


def test_instructions_of_people_and_words_do_not_touch_each_other(store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=CONFIG)
    instructions.set_by_hand(store, PROJECT, {"text": "Write it down."})
    put(store, corrected(1, "Zorvek", "a"))
    apply_pending(store)
    instructions.set_by_hand(store, PROJECT, {"text": None})
    assert words(store) == {"text": ["Zorvek"]}
    with store.read() as session:
        assert instructions.current(session.get_one(Project, PROJECT)) == {}


def test_broken_results_add_no_words_and_lose_no_annotation(store: Store) -> None:
    projects.upsert(store, PROJECT, label_config=CONFIG)
    broken = corrected(1, "", None)
    broken["annotation"]["result"] = [{"from_name": "text", "value": {"text": [1, None]}}]
    put(store, broken, corrected(2, "Zorvek\0", "a"))
    apply_pending(store)
    assert words(store) == {"text": ["Zorvek"]}
    with store.read() as session:
        assert session.get(Annotation, (PROJECT, 1)) is not None


def test_texts_of_segments_teach_words_as_whole_transcripts_do(store: Store) -> None:
    segments = CONFIG.replace(
        "<TextArea ", '<Labels name="label" toName="audio"><Label value="a"/></Labels><TextArea '
    )
    event = corrected(1, "Call Zorvek now.", "Call four now.")
    event["project"]["label_config"] = segments.replace("/></View>", ' perRegion="true"/></View>')
    projects.upsert(store, PROJECT, label_config=event["project"]["label_config"])
    put(store, event)
    apply_pending(store)
    assert words(store) == {"text": ["Zorvek"]}
