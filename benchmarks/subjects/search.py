"""Search: how often the right task is among the first, and how long a query takes.

The model is the demo model. Drawn pictures are searched by their captions, each of which fits one picture. Crops
of photographs are searched by a cropped, recompressed and darker copy, among other crops of the same photographs.
The vectors take the same way as those of tasks: from the model server into the database, and from there into
memory. Times are those of random vectors of 512 numbers, where the query is one of the vectors.
"""

import io
import itertools
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from benchmarks import servers
from benchmarks.photos import Photos, data_url
from benchmarks.plan import Plan
from benchmarks.question import LABELS
from benchmarks.rows import Goal, Row, row_of
from lorabel.contracts import Content, EmbedInput, LabelsInput, MediaRef, Modality
from lorabel.database import task_embeddings
from lorabel.database.store import Store
from lorabel.database.task_embeddings import TaskVector
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, FILLS, SHAPES, SIZES, Picture
from lorabel.inference.messages import PredictRow, Priority
from lorabel.inference.model_client import ModelClient
from lorabel.inference.requests import PredictionCaller
from lorabel.search import embeddings
from lorabel.search.vector_index import VECTOR_DTYPE, VectorIndex
from tests.workers.pictures import data_url as drawn_url

SEARCHED_AT = (1, 5, 10)
CROPS, QUICK_CROPS = 128, 32
SIZES_OF_INDEX, QUICK_SIZES = (10_000, 100_000), (10_000,)
DIM = 512
ROWS_PER_WRITE = 10_000
QUERIES = 20
PAGE, PAGES, QUICK_PAGES = 250, 8, 2
TIMEOUT_S = 300.0
MOST_BYTES = 2**30
BOTH = frozenset({Modality.IMAGE, Modality.TEXT})
WORDS_TO_PICTURES, LIKENESS = Goal(">=", 0.9), Goal(">=", 0.9)
QUERY_MS = Goal("<=", 100.0)
SHARE = Goal("<=", 0.1)


def measure(plan: Plan) -> list[Row]:
    variables = {"MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}"}
    with (
        TemporaryDirectory(prefix="lorabel-search-") as folder,
        servers.photo_server() as photos,
        servers.lorabel(plan, {**variables, "MEDIA_ALLOWED_HOSTS": photos.removeprefix("http://")}) as lorabel,
        closing(ModelClient(lorabel.settings)) as client,
    ):
        bench = _Bench(Path(folder), client)
        return [
            *bench.words_to_pictures(plan.is_quick),
            *bench.likeness(QUICK_CROPS if plan.is_quick else CROPS),
            bench.cost(photos, QUICK_PAGES if plan.is_quick else PAGES),
            *(row for n in (QUICK_SIZES if plan.is_quick else SIZES_OF_INDEX) for row in bench.query_times(n)),
        ]


class _Bench:
    """Measures with a database of its own. Each index is another project."""

    def __init__(self, folder: Path, client: ModelClient) -> None:
        self._store = Store(f"sqlite:///{folder / 'search.db'}")
        self._store.migrate()
        self._client = client
        self._project_ids = itertools.count(1)

    def words_to_pictures(self, is_quick: bool) -> list[Row]:
        fills, sizes = (FILLS[:1], ("large",)) if is_quick else (FILLS, tuple(SIZES))
        drawn = [
            Picture(colour, shape, fill, size, seed=number)
            for number, (size, fill, colour, shape) in enumerate(itertools.product(sizes, fills, COLOURS, SHAPES))
        ]
        captions = [_text(_caption(picture, is_quick)) for picture in drawn]
        ranks = self._ranks([_picture(drawn_url(picture)) for picture in drawn], captions)
        return _recalls(f"caption to one of {len(drawn)} pictures", ranks, WORDS_TO_PICTURES)

    def likeness(self, count: int) -> list[Row]:
        photos = Photos(count)
        crops = [photos[number] for number in range(count)]
        copies = [_picture(data_url(_copy(jpeg))) for jpeg in crops]
        ranks = self._ranks([_picture(data_url(jpeg)) for jpeg in crops], copies)
        note = "of six photographs, by a model of drawn shapes"
        return _recalls(f"near-duplicate to one of {count} crops", ranks, LIKENESS, note)

    def cost(self, photos: str, pages: int) -> Row:
        """The time that a bulk run needs for the vectors of tasks that it has just predicted."""
        shares = []
        for page in range(pages):
            urls = [f"{photos}/{page * PAGE + i}.jpg" for i in range(PAGE)]
            inputs = {task_id: _picture(url, is_cache_only=True) for task_id, url in enumerate(urls)}
            caller = self._caller()
            rows = [_label_row(embed_input.contents) for embed_input in inputs.values()]
            started = time.perf_counter()
            self._client.predict(rows, TIMEOUT_S, caller.project_id, Priority.BULK)
            predicted = time.perf_counter()
            vectors = embeddings.keep(self._store, caller, inputs, lambda media: media)
            shares.append((time.perf_counter() - predicted) / (predicted - started))
            if not all(isinstance(vector, TaskVector) for vector in vectors.values()):
                raise RuntimeError("the model server no longer has what it predicted a moment ago in memory")
        return row_of(f"embedding {PAGE} tasks just predicted, of their prediction's time", shares, "x", SHARE)

    def query_times(self, count: int) -> list[Row]:
        project_id = next(self._project_ids)
        generator = np.random.default_rng(count)
        embed_input = _text("drawn at random")
        for start in range(0, count, ROWS_PER_WRITE):
            vectors = generator.standard_normal((min(ROWS_PER_WRITE, count - start), DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            task_vectors = {
                task_id: TaskVector("random", vector.astype(VECTOR_DTYPE).tobytes())
                for task_id, vector in enumerate(vectors, start)
            }
            inputs = dict.fromkeys(task_vectors, embed_input)
            task_embeddings.write(self._store, project_id, inputs, task_vectors)
        index, times_ms = VectorIndex(self._store, MOST_BYTES), []
        for _ in range(QUERIES + 1):
            started = time.perf_counter()
            (hit,) = index.nearest(project_id, task_vectors[count - 1], 1)
            times_ms.append((time.perf_counter() - started) * 1000)
            if hit.task_id != count - 1:
                raise RuntimeError(f"the nearest of {count} is {hit}, expected task {count - 1} itself")
        first_ms, *others_ms = times_ms
        return [
            row_of(f"query of {count:,} vectors", others_ms, "ms", QUERY_MS),
            Row(f"first query of {count:,} vectors, with reading them", first_ms, "ms"),
        ]

    def _ranks(self, tasks: Sequence[EmbedInput], queries: Sequence[EmbedInput]) -> list[int]:
        """For each query the position in the hits of the task with the same number, from 0."""
        caller = self._caller()
        embeddings.keep(self._store, caller, dict(enumerate(tasks)), lambda media: media)
        index = VectorIndex(self._store, MOST_BYTES)
        ranks = []
        for number, vector in enumerate(embeddings.embed(caller, queries)):
            if not isinstance(vector, TaskVector):
                raise RuntimeError(f"query {number} was not embedded: {vector.reason}")
            hits = index.nearest(caller.project_id, vector, len(tasks))
            ranks.append([hit.task_id for hit in hits].index(number))
        return ranks

    def _caller(self) -> PredictionCaller:
        return PredictionCaller(self._client, next(self._project_ids), Priority.BULK, time.monotonic() + TIMEOUT_S)


def _recalls(name: str, ranks: Sequence[int], goal: Goal, note: str = "") -> list[Row]:
    """The share of queries whose task is among the first k, for each k. The goal is for the largest k."""
    shares = {k: float(np.mean(np.array(ranks) < k)) for k in SEARCHED_AT}
    goal_k = max(SEARCHED_AT)
    return [
        Row(f"{name}: recall@{k}", share, "", goal=goal if k == goal_k else None, note=note)
        for k, share in shares.items()
    ]


def _caption(picture: Picture, is_quick: bool) -> str:
    words = [picture.colour, picture.shape] if is_quick else [picture.size, picture.fill, *picture.pair]
    return f"a {' '.join(words)}"


def _text(text: str) -> EmbedInput:
    return EmbedInput(contents=(Content(modality=Modality.TEXT, text=text),), comparable_with=BOTH)


def _picture(url: str, is_cache_only: bool = False) -> EmbedInput:
    picture = Content(modality=Modality.IMAGE, media=MediaRef(url=url))
    return EmbedInput(contents=(picture,), comparable_with=BOTH, is_cache_only=is_cache_only)


def _label_row(contents: tuple[Content, ...]) -> PredictRow:
    question = LabelsInput(contents=contents, labels=tuple((label,) for label in LABELS))
    return PredictRow(kind=question.kind, input=question.model_dump(mode="json"))


def _copy(jpeg: bytes) -> bytes:
    """A near-duplicate of the photograph: 5% cut off at each side, smaller, darker, and with more compression."""
    image = Image.open(io.BytesIO(jpeg))
    left, top = round(0.05 * image.width), round(0.05 * image.height)
    small = image.resize((320, 240), box=(left, top, image.width - left, image.height - top))
    file = io.BytesIO()
    small.point(lambda value: round(0.85 * value)).save(file, "JPEG", quality=40)
    return file.getvalue()
