"""The JSON body of a request to /v1/predict, and how rows are divided into requests.

A content that several rows ask about is in the body once. A sample, in which two control tags ask about a picture:

    {"contents": [{"modality": "image", "media": {"url": "data:image/png;base64,..."}}],
     "rows": [{"kind": "labels", "input": {"contents": [0], "labels": [["red"], ["blue"]]}, "adapter": null},
              {"kind": "labels", "input": {"contents": [0], "labels": [["big"], ["small"]]}, "adapter": null}],
     "timeout_s": 95.0, "project": 1, "priority": "interactive"}

A row may also have its contents themselves in place of their indices.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lorabel.errors import BadRequestError, RequestTooLargeError
from lorabel.inference.messages import PredictRequest, PredictRow
from lorabel.media.fetching import digest

# Most JSON objects in a body. A row has two of its own, and a content has up to three.
MAX_OBJECTS = 2**18
# More than a row has in a body beside its input: its kind, adapter and head.
ROW_BYTES = 1000
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def encode(request: PredictRequest) -> bytes:
    """Write a request as JSON. Equal contents of its rows are written once."""
    contents = _Contents()
    rows = [_encoded_row(row, [contents.index(content) for content in _contents_of(row)]) for row in request.rows]
    others = {"timeout_s": request.timeout_s, "project": request.project, "priority": request.priority}
    other_fields = _json(others).removeprefix(b"{")
    return b'{"contents":[%b],"rows":[%b],%b' % (b",".join(contents.encoded), b",".join(rows), other_fields)


def decode(body: bytes, max_rows: int) -> PredictRequest:
    """Read a request whose rows then have their contents themselves. Equal contents share their memory.

    Args:
        max_rows: most rows of the request. Reading ends at the first row above it, so nothing is kept of the rest.

    Raises:
        BadRequestError: the body is no JSON, its contents are no objects, or a row names a content that it lacks.
        ValidationError: the body is no PredictRequest.
        RequestTooLargeError: there are more than `max_rows` rows, or more than MAX_OBJECTS objects.
    """
    # Objects are counted while they are read, which takes time, unless there cannot be too many.
    has_few = body.count(b"{") <= min(max_rows, MAX_OBJECTS)
    try:
        fields = json.loads(body.decode(), object_hook=None if has_few else _Limit(max_rows).count)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body cannot be read as JSON: {error}") from error
    request = PredictRequest.model_validate(fields)
    listed = fields.get("contents", [])
    if not isinstance(listed, list) or not all(isinstance(content, dict) for content in listed):
        raise BadRequestError("contents is not a list of objects")
    contents = dict(enumerate(listed))
    for row in request.rows:
        _put_contents(row, contents)
    return request


def pieces(rows: Sequence[PredictRow], max_rows: int, max_bytes: int) -> Iterator[Sequence[PredictRow]]:
    """Divide rows into consecutive pieces, each for one request.

    Args:
        max_rows: most rows of a piece.
        max_bytes: most bytes of a piece in a body. A row that alone is larger is a piece of its own.
    """
    # The size of a single row does not matter, and most requests are small even with each content in each row.
    if len(rows) == 1 or (
        0 < len(rows) <= max_rows and sum(len(_json(row.input)) + ROW_BYTES for row in rows) <= max_bytes
    ):
        yield rows
        return
    start, size = 0, 0
    known: set[str] = set()
    for index, row in enumerate(rows):
        sizes = _sizes(row)
        added = sum(sizes[key] for key in sizes.keys() - known)
        if index - start == max_rows or (index > start and size + added > max_bytes):
            yield rows[start:index]
            start, size, known, added = index, 0, set(), sum(sizes.values())
        size += added
        known |= sizes.keys()
    if start < len(rows):
        yield rows[start:]


class _Contents:
    """The contents of a body as JSON, each once, in the order in which `index` was first called for them."""

    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self._indices: dict[str, int] = {}

    def index(self, content: Mapping[str, Any]) -> int:
        encoded = _json(content)
        key = digest(encoded)
        if key not in self._indices:
            self._indices[key] = len(self.encoded)
            self.encoded.append(encoded)
        return self._indices[key]


class _Limit:
    """Counts the objects of a body while it is read, and ends the reading when there are too many."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._rows = self._objects = 0

    def count(self, value: dict[str, Any]) -> dict[str, Any]:
        """Return the object as it is. Raises RequestTooLargeError."""
        self._objects += 1
        self._rows += "kind" in value and "input" in value
        if self._rows > self._max_rows:
            raise RequestTooLargeError(
                f"the request has more than {self._max_rows} rows (MAX_WAITING); send it in several parts"
            )
        if self._objects > MAX_OBJECTS:
            raise RequestTooLargeError(
                f"the request has more than {MAX_OBJECTS} JSON objects; send it in several parts"
            )
        return value


def _contents_of(row: PredictRow) -> list[dict[str, Any]]:
    """The contents of the row; empty if it has none, or has something else in their place."""
    contents = row.input.get("contents")
    if isinstance(contents, list) and all(isinstance(content, dict) for content in contents):
        return contents
    return []


def _encoded_row(row: PredictRow, indices: Sequence[int]) -> bytes:
    references = {"contents": indices} if indices else {}
    head = {} if row.head is None else {"head": row.head}
    return _json({"kind": row.kind, "input": {**row.input, **references}, "adapter": row.adapter, **head})


def _sizes(row: PredictRow) -> dict[str, int]:
    """The bytes of each content of the row, by its digest; and those of the row without them, by its identity."""
    contents = [_json(content) for content in _contents_of(row)]
    rest = _encoded_row(row, list(range(len(contents))))
    return {digest(content): len(content) for content in contents} | {str(id(row)): len(rest)}


def _put_contents(row: PredictRow, contents: Mapping[int, Any]) -> None:
    """Put the contents in the place of their indices. Nobody else has the row's input yet."""
    listed = row.input.get("contents")
    if not isinstance(listed, list) or not any(isinstance(item, int) for item in listed):
        return
    try:
        row.input["contents"] = [contents[item] if isinstance(item, int) else item for item in listed]
    except KeyError as error:
        raise BadRequestError(
            f"a row names content {error}, and the request has {len(contents)} contents, counted from 0"
        ) from error


def _json(value: Any) -> bytes:
    return ENCODER.encode(value).encode()
