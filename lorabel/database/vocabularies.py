"""The vocabulary of a project: words that its people have put into transcripts, and that no model had written.

It is a function of the project's newest annotations, made anew whenever one of them changes, and kept with the
project's instructions. The next sound is transcribed with it, before anything was trained.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from lorabel.database import project_heads
from lorabel.database.tables import Annotation, Project
from lorabel.errors import LabelConfigError, storable
from lorabel.evaluation.missed_words import most_important
from lorabel.problems.binding import bind
from lorabel.problems.instructions import WORDS
from lorabel.problems.segment_transcripts import TranscriptsOfSegments
from lorabel.problems.transcripts import Transcripts

MOST_ANNOTATIONS = 300
MOST_WORDS = 300


def renew(session: Session, project: Project) -> None:
    """Read the words anew from the newest annotations. The caller has locked the project's row."""
    try:
        bindings = bind(project.label_config or "").bindings
    except LabelConfigError:
        return
    transcripts = [binding for binding in bindings if isinstance(binding, Transcripts | TranscriptsOfSegments)]
    if not transcripts:
        return
    session.flush()
    newest = (
        select(Annotation.result, Annotation.prediction_result)
        .where(*project_heads.usable_annotations(project))
        .order_by(Annotation.updated_at.desc(), Annotation.id.desc())
        .limit(MOST_ANNOTATIONS)
    )
    rows = [(result, shown) for result, shown in session.execute(newest)]
    words = {binding.from_name: _words(binding, rows) for binding in transcripts}
    stored = project.instructions or {}
    if stored.get(WORDS, {}) != words:
        project.instructions = {**stored, WORDS: words}


def _words(binding: Transcripts | TranscriptsOfSegments, rows: Sequence[tuple[Any, Any]]) -> list[str]:
    missed = [binding.missed_words(result, shown) for result, shown in rows]
    return [storable(word) for word in most_important(missed, MOST_WORDS)]
