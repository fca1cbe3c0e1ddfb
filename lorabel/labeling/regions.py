"""Builds regions, the parts of a result. No other module builds them.

Regions have no `id`: Label Studio's editor makes one, and two regions with the same id would overwrite each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Region = dict[str, Any]
# The type of a relation between two regions, and the directions that the editor knows: from the second region to
# the first, from the first to the second, and both.
RELATION = "relation"
LEFT, RIGHT, BOTH = DIRECTIONS = ("left", "right", "bi")
# Digits of seconds: microseconds, less than the step from sample to sample.
TIME_DIGITS = 6


def choices(from_name: str, to_name: str, values: Sequence[str]) -> Region:
    """A region of `<Choices>` (https://labelstud.io/tags/choices).

    Args:
        values: the choices, each by its alias if the label config has one.
    """
    return {"from_name": from_name, "to_name": to_name, "type": "choices", "value": {"choices": list(values)}}


def taxonomy(from_name: str, to_name: str, paths: Sequence[Sequence[str]]) -> Region:
    """A region of `<Taxonomy>` (https://labelstud.io/tags/taxonomy).

    Args:
        paths: each from the top, its nodes by their aliases if the label config has any.
    """
    value = {"taxonomy": [list(path) for path in paths]}
    return {"from_name": from_name, "to_name": to_name, "type": "taxonomy", "value": value}


def rating(from_name: str, to_name: str, stars: int) -> Region:
    """A region of `<Rating>` (https://labelstud.io/tags/rating).

    Args:
        stars: from 1; the editor takes 0 for no rating.
    """
    return {"from_name": from_name, "to_name": to_name, "type": "rating", "value": {"rating": stars}}


def number(from_name: str, to_name: str, value: float) -> Region:
    """A region of `<Number>` (https://labelstud.io/tags/number)."""
    return {"from_name": from_name, "to_name": to_name, "type": "number", "value": {"number": value}}


def textarea(from_name: str, to_name: str, texts: Sequence[str]) -> Region:
    """A region of `<TextArea>` (https://labelstud.io/tags/textarea)."""
    return {"from_name": from_name, "to_name": to_name, "type": "textarea", "value": {"text": list(texts)}}


def chat_message(name: str, role: str, content: str) -> Region:
    """A message of `<Chat>`, which is both control tag and object tag (https://labelstud.io/tags/chat)."""
    value = {"chatmessage": {"role": role, "content": content}}
    return {"from_name": name, "to_name": name, "type": "chatmessage", "value": value}


def pairwise(from_name: str, to_name: str, selected: str) -> Region:
    """A region of `<Pairwise>` (https://labelstud.io/tags/pairwise).

    Args:
        to_name: an object tag. The editor writes the control tag's own name here, but the SDK's validation refuses
            that.
        selected: `left` or `right`.
    """
    return {"from_name": from_name, "to_name": to_name, "type": "pairwise", "value": {"selected": selected}}


def ranker(from_name: str, to_name: str, order: Mapping[str, Sequence[str]]) -> Region:
    """A region of `<Ranker>` (https://labelstud.io/tags/ranker).

    Args:
        order: for each bucket the ids of its items, in order. A Ranker without buckets has a single key, its name.
    """
    value = {bucket: list(ids) for bucket, ids in order.items()}
    return {"from_name": from_name, "to_name": to_name, "type": "ranker", "value": {"ranker": value}}


def labels(from_name: str, to_name: str, kind: str, offsets: Mapping[str, Any], values: Sequence[str]) -> Region:
    """A region that labels a part of a text (https://labelstud.io/tags/labels).

    Args:
        kind: `labels`, `hypertextlabels` or `paragraphlabels`.
        offsets: which part, from `lorabel.labeling.text_offsets.FlatText.value`.
    """
    value = {**offsets, kind: list(values)}
    return {"from_name": from_name, "to_name": to_name, "type": kind, "value": value}


def series_segment(
    from_name: str, to_name: str, span: tuple[float | str, float | str], values: Sequence[str]
) -> Region:
    """A region of `<TimeSeriesLabels>` that labels a part of a `<TimeSeries>` (https://labelstud.io/tags/timeserieslabels).

    Args:
        span: where it starts and ends, as times in the series are written. Both are the same for an instant.
    """
    start, end = span
    value = {"start": start, "end": end, "instant": start == end, "timeserieslabels": list(values)}
    return {"from_name": from_name, "to_name": to_name, "type": "timeserieslabels", "value": value}


def sound_segment(
    from_name: str, to_name: str, span_s: tuple[float, float], length_s: float, values: Sequence[str]
) -> Region:
    """A region of `<Labels>` that labels a part of an `<Audio>` (https://labelstud.io/tags/labels).

    Args:
        span_s: where it starts and ends, in seconds from the beginning of the sound.
        length_s: of the sound, in seconds.
    """
    start, end = (round(moment, TIME_DIGITS) for moment in span_s)
    value = {"start": start, "end": end, "channel": 0, "labels": list(values)}
    return {
        "from_name": from_name,
        "to_name": to_name,
        "type": "labels",
        "original_length": round(length_s, TIME_DIGITS),
        "value": value,
    }


def about_segment(region: Region, answer: Region) -> Region:
    """An answer about a segment of a sound, as `<TextArea perRegion="true">` gives it.

    Args:
        region: of the segment, with an id; the answer gets its id and place.
        answer: as if it were about the whole sound.
    """
    place: Region = {key: region["value"][key] for key in ("start", "end", "channel") if key in region["value"]}
    of_sound: Region = {key: region[key] for key in ("id", "original_length") if key in region}
    return {**answer, **of_sound, "value": {**place, **answer["value"]}}


def without_scores(regions: Sequence[Region]) -> list[Region]:
    """Regions as they are without their scores."""
    return [{key: value for key, value in region.items() if key != "score"} for region in regions]


def is_relation(region: Region) -> bool:
    """Whether an item of a result is a relation between two of its regions."""
    return region.get("type") == RELATION


def relation(from_id: str, to_id: str, direction: str, values: Sequence[str] = ()) -> Region:
    """A relation between two regions of the same result (https://labelstud.io/tags/relations).

    Args:
        from_id: id of the first region.
        to_id: id of the second region.
        direction: one of DIRECTIONS.
        values: the labels of the relation; none if the label config has none.
    """
    labelled = {"labels": list(values)} if values else {}
    return {"type": RELATION, "from_id": from_id, "to_id": to_id, "direction": direction, **labelled}


def video_segment(from_name: str, to_name: str, frames: tuple[int, int], values: Sequence[str]) -> Region:
    """A region of `<TimelineLabels>` (https://labelstud.io/tags/timelinelabels).

    Args:
        frames: the first and the last frame, counted from 1. The editor refuses what are no whole numbers.
    """
    first, last = frames
    value = {"ranges": [{"start": first, "end": last}], "timelinelabels": list(values)}
    return {"from_name": from_name, "to_name": to_name, "type": "timelinelabels", "value": value}
