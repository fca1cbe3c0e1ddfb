"""An explanation in a few lines of text, for a `<TextArea>` of the editor.

topic: sport. For it: "striker" +2.1, "twice" +0.8. Against it: "half" -0.4.
box: red circle (next: red square, 3.1 less near); blue star (next: blue cross, 4.0 less near).
Like task 12 (topic: sport), task 40 (topic: politics).
"""

from collections.abc import Iterator, Sequence

from lorabel.explanations.explanation import ExplainedContent, TagExplanation
from lorabel.explanations.label_nearness import ExplainedRegion
from lorabel.explanations.marks import strongest_words
from lorabel.explanations.nearest_tasks import AnnotatedHit

# More regions are not told, and of a group of words no more than so many characters.
MOST_REGIONS = 6
LONGEST_WORD = 40


def sentences(tags: Sequence[TagExplanation], nearest: Sequence[AnnotatedHit]) -> list[str]:
    """Return a line for each explained control tag, and one for the annotated tasks that are like the task."""
    lines = [line for tag in tags if (line := _of_tag(tag)) is not None]
    return [*lines, *_like(nearest)]


def _of_tag(tag: TagExplanation) -> str | None:
    """None if the explanation says nothing that a line could hold."""
    if tag.regions:
        told = "; ".join(map(_of_region, tag.regions[:MOST_REGIONS]))
        more = len(tag.regions) - MOST_REGIONS
        return f"{tag.control_tag}: {told}{f'; and {more} more' if more > 0 else ''}."
    parts = [*_shares(tag.contents), *_words(tag.contents)]
    if not parts:
        return None
    answer = tag.label if tag.label is not None else f"{tag.score or 0.0:.1f}"
    return " ".join([f"{tag.control_tag}: {answer}.", *parts])


def _of_region(region: ExplainedRegion) -> str:
    others = [near for near in region.labels if near.label != region.label]
    if region.margin is None or not others:
        return region.label
    how = f"{region.margin:.1f} less near" if region.margin >= 0 else f"{-region.margin:.1f} nearer"
    return f"{region.label} (next: {others[0].label}, {how})"


def _shares(contents: Sequence[ExplainedContent]) -> Iterator[str]:
    shares = [(content.modality, content.share) for content in contents if content.share is not None]
    if shares:
        yield "Shares: " + ", ".join(f"{modality} {100 * share:.0f} %" for modality, share in shares) + "."


def _words(contents: Sequence[ExplainedContent]) -> Iterator[str]:
    words = [
        ((content.weights.text or "")[word.start : word.end], word.weight)
        for content in contents
        for word in strongest_words(content.weights)
    ]
    words.sort(key=lambda word: -abs(word[1]))
    for name, sign in (("For it", 1), ("Against it", -1)):
        told = [f'"{_short(word)}" {weight:+.1f}' for word, weight in words if weight * sign > 0]
        if told:
            yield f"{name}: {', '.join(told)}."


def _short(word: str) -> str:
    plain = " ".join(word.split())
    return plain if len(plain) <= LONGEST_WORD else f"{plain[: LONGEST_WORD - 1]}…"


def _like(nearest: Sequence[AnnotatedHit]) -> Iterator[str]:
    if nearest:
        yield "Like " + ", ".join(map(_named, nearest)) + "."


def _named(near: AnnotatedHit) -> str:
    said = "; ".join(f"{tag}: {', '.join(sorted(labels))}" for tag, labels in sorted(near.labels.items()))
    return f"task {near.hit.task_id}" + (f" ({said})" if said else "")
