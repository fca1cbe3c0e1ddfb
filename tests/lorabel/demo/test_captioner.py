"""The demo's captioner describes scenes that it was not trained on, and answers questions about them."""

from functools import cache
from itertools import islice
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

from lorabel.demo import CAPTIONER_FOLDER
from lorabel.demo.counted_scenes import counted_scenes, kinds
from lorabel.demo.evaluate_captioner import evaluate, load, write
from lorabel.demo.exchanges import Exchange, caption
from lorabel.families.generator import Generator

LARGEST_FILE = 6 * 2**20
SCENES = 40
# Lowest shares of texts that are right as a whole: below what lorabel/demo/README.md says by two standard errors.
SEEN = {"caption": 0.7, "question": 0.75}
UNSEEN = {"caption": 0.3, "question": 0.6}


@cache
def family() -> Generator:
    return load(CAPTIONER_FOLDER)


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in CAPTIONER_FOLDER.iterdir()) < LARGEST_FILE


@pytest.mark.slow
@pytest.mark.parametrize(("is_unseen", "lowest"), [(False, SEEN), (True, UNSEEN)])
def test_captions_and_answers_are_right_as_a_whole(is_unseen: bool, lowest: dict[str, float]) -> None:
    figures = evaluate(family(), is_unseen, SCENES, tasks=tuple(lowest))
    assert all(figures[name] >= lowest[name] for name in lowest), figures


def test_transformers_alone_writes_the_same_captions() -> None:
    scenes = list(islice(counted_scenes(77), 5))
    model: Any = AutoModelForImageTextToText.from_pretrained(CAPTIONER_FOLDER)
    processor = AutoProcessor.from_pretrained(CAPTIONER_FOLDER)
    texts = []
    for scene in scenes:
        messages = [
            {"role": "system", "content": "Describe the picture."},
            {"role": "user", "content": [{"type": "image"}]},
        ]
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(text=prompt, images=[[scene.draw()]], return_tensors="pt", add_special_tokens=False)
        tokens = model.float().generate(**inputs, max_new_tokens=20, do_sample=False)
        texts += processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = [((scene,), Exchange("Describe the picture.", "", caption(kinds(scene)))) for scene in scenes]
    assert write(family(), asked) == texts
