"""How often the demo's captioner is right: on pairs of colour and shape that it was trained on, and on others.

    python -m lorabel.demo.evaluate_captioner FOLDER

The test scenes have other seeds than those of the training. A text counts only if it is right as a whole.
"""

import itertools
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.demo.counted_scenes import Kind, counted_scenes, kinds
from lorabel.demo.exchanges import (
    ANSWER,
    DESCRIBE,
    LISTS,
    Exchange,
    caption,
    of_several,
    random_form,
    random_question,
)
from lorabel.demo.scenes import Scene, png
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import FeatureCache
from lorabel.families.generator import Generator
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput, WrittenText

SCENES = 100
SEED = 1000
ROWS = 25


def write(family: Generator, asked: Sequence[tuple[Sequence[Scene], Exchange]]) -> list[str]:
    """What the captioner writes about pictures."""
    texts: list[str] = []
    for start in range(0, len(asked), ROWS):
        inputs = []
        for scenes, exchange in asked[start : start + ROWS]:
            files = {str(index): png(scene) for index, scene in enumerate(scenes)}
            question = question_of(files, exchange)
            inputs.append(family.prepare(question, lambda media, files=files: files[media.url]))  # type: ignore[misc]
        outputs = family.predict(inputs, [None] * len(inputs), NO_BATCH_ADAPTERS, FeatureCache({}))
        texts += [output.text for output in outputs if isinstance(output, WrittenText)]
    return texts


def question_of(urls: Iterable[str], exchange: Exchange) -> TextInput:
    """The question about pictures at some addresses."""
    pictures = [Content(modality=Modality.IMAGE, media=MediaRef(url=url)) for url in urls]
    texts = [Content(modality=Modality.TEXT, text=exchange.text)] if exchange.text else []
    return TextInput(contents=(*pictures, *texts), instruction=exchange.instruction)


def _caption(scene_kinds: Sequence[Kind], rng: random.Random) -> Exchange:
    return Exchange(rng.choice(DESCRIBE), "", caption(scene_kinds))


def _list(scene_kinds: Sequence[Kind], rng: random.Random) -> Exchange:
    items = (f"{kind.count} x {kind.colour} {kind.shape}" for kind in scene_kinds)
    return Exchange(rng.choice(LISTS), "", ", ".join(items))


def _question(scene_kinds: Sequence[Kind], rng: random.Random) -> Exchange:
    question, answer = random_question(scene_kinds, rng)
    return Exchange(rng.choice(ANSWER), question, answer)


TASKS = MappingProxyType(
    {"caption": _caption, "list": _list, "caption in a form that is shown": random_form, "question": _question}
)


def evaluate(
    family: Generator, is_unseen: bool, scene_count: int = SCENES, tasks: Sequence[str] = tuple(TASKS)
) -> dict[str, float]:
    """The share of right texts, by task.

    Args:
        is_unseen: whether the pictures show pairs of colour and shape that the captioner was not trained on.
        tasks: names of TASKS.
    """
    scenes = _scenes(is_unseen, scene_count)
    figures: dict[str, float] = {}
    for name in tasks:
        rng = random.Random(SEED)
        figures[name] = _share(family, [([scene], TASKS[name](kinds(scene), rng)) for scene in scenes])
    return figures


def evaluate_pairs(family: Generator, is_unseen: bool) -> float:
    """The share of right captions of two pictures."""
    scenes = _scenes(is_unseen, SCENES)
    rng = random.Random(SEED)
    pairs = list(zip(scenes[::2], scenes[1::2], strict=True))
    several = [(pair, of_several([kinds(scene) for scene in pair], rng)) for pair in pairs]
    return _share(family, several)


def _scenes(is_unseen: bool, count: int) -> list[Scene]:
    return list(itertools.islice(counted_scenes(SEED, is_unseen=is_unseen), count))


def _share(family: Generator, asked: Sequence[tuple[Sequence[Scene], Exchange]]) -> float:
    texts = write(family, asked)
    return sum(text == exchange.answer for text, (_, exchange) in zip(texts, asked, strict=True)) / len(asked)


def load(folder: Path) -> Generator:
    """The captioner as the model server loads it."""
    settings = Settings(generator_max_new_tokens=48)
    return Generator.load(f"local-dir:{folder}", torch.device("cpu"), torch.float32, settings)


def main() -> None:
    """Print a table of the figures."""
    if len(sys.argv) != 2:
        sys.exit("the captioner's folder is missing: python -m lorabel.demo.evaluate_captioner FOLDER")
    family = load(Path(sys.argv[1]))
    seen, unseen = (
        {**evaluate(family, is_unseen), "captions of two pictures": evaluate_pairs(family, is_unseen)}
        for is_unseen in (False, True)
    )
    print("| right as a whole | pairs seen in training | pairs never seen |\n|---|---|---|")
    for name in seen:
        print(f"| {name} | {seen[name]:.2f} | {unseen[name]:.2f} |")


if __name__ == "__main__":
    main()
