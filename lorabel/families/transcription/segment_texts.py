"""What windows that follow each other have together: a text of a sound, or of a segment of it."""

from collections.abc import Sequence

from lorabel.families.transcription.heard_sound import PreparedSound, Window
from lorabel.families.transcription.window_texts import divided, joined
from lorabel.text_contracts import SegmentTranscriptsInput, TranscriptInput, WrittenText


def of_windows(prepared: PreparedSound, windows: tuple[Window, ...]) -> PreparedSound:
    """Return the sound as if it had these windows only, as one text."""
    question = TranscriptInput(contents=prepared.question.contents, words=prepared.question.words)
    return PreparedSound(question, windows, prepared.is_cut, prepared.told)


def divided_among(windows: Sequence[Window], text: str) -> list[tuple[Window, str]]:
    """Return windows that follow each other, each with its part of the right text."""
    if len(windows) < 2:
        return [(window, text) for window in windows]
    texts = divided(text, [window.draft or "" for window in windows], [window.length_s for window in windows])
    return list(zip(windows, texts, strict=True))


def joined_texts(texts: Sequence[WrittenText]) -> WrittenText:
    """Return the text of windows that follow each other; not complete if there is none.

    A window counts for the probability by the length of its text.
    """
    if not texts:
        return WrittenText(text="", probability=0.0, is_complete=False)
    lengths = [max(1, len(text.text)) for text in texts]
    weighted = sum(text.probability * length for text, length in zip(texts, lengths, strict=True))
    return WrittenText(
        text=joined([text.text for text in texts]),
        probability=min(1.0, weighted / sum(lengths)),
        is_complete=all(text.is_complete for text in texts),
    )


def nothing_heard(question: TranscriptInput, read_s: float) -> str:
    """Return why a sound has no windows.

    Args:
        read_s: how much of it was read, in seconds.
    """
    if isinstance(question, SegmentTranscriptsInput):
        return f"none of {len(question.segments)} segments begins in the {read_s:.1f} s that are read of the sound"
    return "nothing is heard in the sound: all of it is silent"
