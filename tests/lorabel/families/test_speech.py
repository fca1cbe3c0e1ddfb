"""The speech family against `generate` of transformers and PEFT: sounds that join and leave get the text that each
gets alone."""

from collections.abc import Hashable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from lorabel.contracts import Content, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import SettingsError, UnreadableError
from lorabel.families.base import NO_BATCH_ADAPTERS
from lorabel.families.cache import EMBEDDINGS, FeatureCache
from lorabel.families.speech import Speech
from lorabel.families.transcription.heard_sound import PreparedSound
from lorabel.families.transcription.tiny_speech_model import write_speech_model
from lorabel.families.transcription.told_words import NOTHING
from lorabel.media.fetching import digest
from lorabel.settings import Settings
from lorabel.text_contracts import TextTarget, TranscriptInput, WrittenText
from model_server.adapters import AdapterBank
from tests.audio_files import RATE_HZ, Samples, chirp, encoded, noise, tone
from tests.model_server.test_adapters import save_random_adapter

pytestmark = pytest.mark.slow

QUESTION = TranscriptInput(contents=(Content(modality=Modality.AUDIO, media=MediaRef(url="sound")),))
SOUNDS: tuple[Samples, ...] = (
    tone(300),
    noise(1, 0.9),
    chirp(200, 3000, 0.7),
    tone(1500, 0.3),
    tone(300),
    chirp(3000, 200, 0.8),
)
# Of the rows: two have the same sound with different adapters, and two have none.
ADAPTERS = (1, 2, None, 3, None, 1)


@pytest.fixture(scope="module", params=[True, False], ids=["multilingual", "english"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(2)
    return write_speech_model(tmp_path_factory.mktemp("model") / "base", is_multilingual=request.param)


@pytest.fixture(scope="module")
def adapter_folders(source: str, tmp_path_factory: pytest.TempPathFactory) -> AdapterFolders:
    """Adapters of three projects, `p1.v1/label` to `p3.v1/label`, of different ranks."""
    torch.manual_seed(1)
    folders = AdapterFolders(tmp_path_factory.mktemp("data") / "adapters")
    for project in range(1, 4):
        save_random_adapter(load(source), folders, f"p{project}.v1", 2 + project)
    return folders


def load(source: str, **settings: Any) -> Speech:
    return Speech.load(source, torch.device("cpu"), torch.float32, Settings(**settings))


def name(project: int | None) -> str | None:
    return None if project is None else f"p{project}.v1/label"


def prepare(family: Speech, sound: Samples) -> PreparedSound:
    return family.prepare(QUESTION, lambda media: encoded(sound))


def transcribe(family: Speech, *sounds: Samples) -> list[Any]:
    prepared = [prepare(family, sound) for sound in sounds]
    return list(family.predict(prepared, [None] * len(sounds), NO_BATCH_ADAPTERS, FeatureCache({})))


@pytest.fixture(scope="module")
def alone(source: str, adapter_folders: AdapterFolders) -> Any:
    """Text and mean probability by `generate` with PEFT, one sound at a time, with the same limit."""

    @cache
    def written(number: int, project: int | None) -> tuple[str, float]:
        family = load(source)
        prepared = prepare(family, SOUNDS[number])
        mel = prepared.windows[0].mel
        assert mel is not None
        # The language is heard by the base model, whatever the adapter.
        prompt = family._hear(prepared.windows[0]).prompt
        line = family._line(prepared.windows[0])
        model: Any = family.module
        if project is not None:
            model = PeftModel.from_pretrained(model, adapter_folders.path(f"p{project}.v1/label"))
        options = {}
        if len(prompt) == 4:
            options = {"language": family.tokens.tokenizer.decode([prompt[1]]).strip("<|>"), "task": "transcribe"}
        output = model.generate(
            input_features=mel[None],
            do_sample=False,
            num_beams=1,
            max_new_tokens=line.max_new_tokens,
            output_scores=True,
            return_dict_in_generate=True,
            **options,
        )
        new = [int(token) for token in output.sequences[0, -len(output.scores) :]]
        chosen = [float(s[0].softmax(-1)[t]) for s, t in zip(output.scores, new, strict=True)]
        return family.tokens.text(new), sum(chosen) / len(chosen)

    return written


def test_sounds_that_join_and_leave_at_different_steps_get_the_text_that_peft_writes_for_each_alone(
    source: str, adapter_folders: AdapterFolders, alone: Any
) -> None:
    """Six sounds of three adapters and of none, of different lengths; one joins every fourth step."""
    family = load(source)
    steps = family.steps(AdapterBank(family, adapter_folders, 10**9), FeatureCache({}))
    outputs: dict[Hashable, Any] = {}
    most = 0
    for number in range(300):
        if number % 4 == 0 and number // 4 < len(SOUNDS):
            row = number // 4
            steps.begin(row, prepare(family, SOUNDS[row]), name(ADAPTERS[row]))
        most = max(most, len(steps.rows))
        outputs |= {row: steps.finish(row) for row in steps.step()}
    assert sorted(map(int, map(str, outputs))) == list(range(len(SOUNDS))) and most >= 3
    for row, project in enumerate(ADAPTERS):
        text, probability = alone(row, project)
        assert isinstance(outputs[row], WrittenText)
        assert outputs[row].text == text
        assert outputs[row].probability == pytest.approx(probability, abs=1e-4)
    assert outputs[0].text != outputs[4].text, "the same sound with another adapter"


def test_keys_and_values_of_a_window_are_computed_once_for_rows_without_an_adapter(source: str) -> None:
    """Otherwise hearing a window, and reading its prompt, would compute the same."""
    family = load(source)
    attention = family.module.model.decoder.layers[0].encoder_attn
    computed: list[int] = []
    attention.k_proj.register_forward_hook(lambda module, inputs, output: computed.append(len(output)))
    transcribe(family, SOUNDS[0], SOUNDS[1])
    assert computed == [1, 1]


def test_a_long_sound_is_written_as_its_windows_are_alone(source: str) -> None:
    """Three seconds with pauses: each of the windows, which are a second at most, is written by itself."""
    family = load(source)
    pause = np.zeros(round(0.2 * RATE_HZ), np.float32)
    sounds = [chirp(300, 2500, 0.7), noise(2, 0.7), tone(900, 0.7)]
    long = prepare(family, np.concatenate([part for sound in sounds for part in (sound, pause)]))
    spans = [window.key[1:] for window in long.windows]
    assert len(spans) >= 3 and all(start < end <= start + RATE_HZ for start, end in spans)
    whole = np.concatenate([part for sound in sounds for part in (sound, pause)])
    alone = transcribe(family, *(whole[start:end] for start, end in spans))
    (output,) = family.predict([long], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    assert isinstance(output, WrittenText)
    assert output.text == " ".join(each.text for each in alone if each.text)


def test_a_short_sound_is_done_before_a_long_one_that_came_first(source: str) -> None:
    family = load(source)
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    steps.begin("long", prepare(family, noise(3, 40.0)), None)
    steps.begin("short", prepare(family, noise(4, 0.1)), None)
    done: list[Hashable] = []
    while len(done) < 2:
        for row in steps.step():
            steps.finish(row)
            done.append(row)
    assert done == ["short", "long"]


def test_a_row_that_leaves_takes_all_its_windows_along(source: str) -> None:
    family = load(source)
    steps = family.steps(NO_BATCH_ADAPTERS, FeatureCache({}))
    steps.begin("long", prepare(family, noise(3, 3.0)), None)
    for _ in range(5):
        steps.step()
    steps.begin("short", prepare(family, SOUNDS[2]), None)
    steps.leave("long")
    output = None
    while output is None:
        for row in steps.step():
            assert row == "short"
            output = steps.finish(row)
    assert steps.rows == () and [output] == transcribe(family, SOUNDS[2])


def test_what_was_heard_is_remembered_by_content_and_the_file_is_not_needed_again(source: str) -> None:
    family, cache = load(source), FeatureCache({EMBEDDINGS: 10**7})
    file = encoded(noise(5, 2.5))
    known = digest(file)
    assert family.recall(QUESTION, lambda _: known, None, NO_BATCH_ADAPTERS, cache) is None
    first = family.predict([family.prepare(QUESTION, lambda _: file)], [None], NO_BATCH_ADAPTERS, cache)
    recalled = family.recall(QUESTION, lambda _: known, None, NO_BATCH_ADAPTERS, cache)
    assert recalled is not None and all(window.mel is None for window in recalled.windows)
    assert family.predict([recalled], [None], NO_BATCH_ADAPTERS, cache) == first
    question = QUESTION.model_copy(update={"words": ("Zorvek",)})
    with_words = family.recall(question, lambda _: known, None, NO_BATCH_ADAPTERS, cache)
    assert with_words is not None and with_words.told.words == ("zorvek",), "words are not remembered, but asked"
    assert family.recall(QUESTION, lambda _: None, None, NO_BATCH_ADAPTERS, cache) is None


def test_a_sound_that_is_too_long_is_read_from_its_beginning_and_the_answer_says_so(source: str) -> None:
    family, sound = load(source, speech_max_s=1.0), noise(6, 1.6)
    (cut,) = transcribe(family, sound)
    (beginning,) = transcribe(family, sound[:RATE_HZ])
    assert cut.text == beginning.text and not cut.is_complete


def test_silence_and_broken_files_have_a_reason(source: str) -> None:
    family = load(source)
    with pytest.raises(UnreadableError, match="all of it is silent") as raised:
        prepare(family, np.zeros(RATE_HZ, np.float32))
    assert raised.value.is_permanent
    with pytest.raises(UnreadableError) as raised:
        family.prepare(QUESTION, lambda _: b"RIFF of nothing")
    assert raised.value.is_permanent
    silence = np.zeros(3 * RATE_HZ, np.float32)
    assert len(prepare(family, np.concatenate([silence, SOUNDS[2], silence])).windows) == 1


def test_a_window_without_speech_has_no_text(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says that nobody speaks, and does not believe in its text."""
    family = load(source)
    (heard,) = transcribe(family, SOUNDS[1])
    assert heard.text
    monkeypatch.setattr("lorabel.families.speech.NO_SPEECH_FROM", -1.0)
    monkeypatch.setattr("lorabel.families.speech.LEAST_LOG_PROBABILITY", 0.0)
    (silent,) = transcribe(family, SOUNDS[1])
    assert silent.text == ""


def test_the_loss_is_that_of_transformers_and_special_tokens_in_a_text_are_letters(source: str) -> None:
    family = load(source)
    prepared = prepare(family, SOUNDS[0])
    mel = prepared.windows[0].mel
    assert mel is not None
    (precomputed,) = family.precompute([prepared], family.lora_layers(), None)
    hearing = precomputed.windows[0].hearing
    assert hearing is not None and precomputed.windows[0].mel is None
    text = "Ada <|endoftext|>"
    letters = family.tokens.answer(text)
    assert len(letters) == len(f" {text}") and family.tokens.text(letters) == text
    labels = [*hearing.prompt, *letters, family.tokens.end]
    logits = family.module(input_features=mel[None], decoder_input_ids=torch.tensor([labels])).logits[0]
    log_probabilities = logits.log_softmax(-1)
    begin = len(hearing.prompt)
    expected = -sum(float(log_probabilities[i - 1, labels[i]]) for i in range(begin, len(labels)))
    (loss,) = family.loss([precomputed], [TextTarget(text)]).tolist()
    assert loss == pytest.approx(expected / (len(labels) - begin), rel=1e-4)


def test_one_window_of_a_long_sound_is_learned_at_a_time_with_its_part_of_the_text(source: str) -> None:
    family = load(source)
    prepared = prepare(family, noise(7, 2.6))
    family.precompute([prepared], family.lora_layers(), torch.Generator())
    drafts = [window.draft for window in prepared.windows]
    assert len(drafts) >= 3 and None not in drafts
    for window, word in zip(prepared.windows, ("one", "two", "three"), strict=False):
        window.draft = word
    target = TextTarget("one zwei three")
    learned = set()
    for seed in range(30):
        (part,), (text,) = family.augment([prepared], [target], torch.Generator().manual_seed(seed))
        assert len(part.windows) == 1
        learned.add((prepared.windows.index(part.windows[0]), text.text))
    assert {(0, "one"), (1, "zwei"), (2, "three")} <= learned


def test_adapters_are_on_the_decoder_alone(source: str) -> None:
    layers = load(source).lora_layers()
    assert layers and all(name.startswith("model.decoder.layers.") for name in layers)


def test_the_language_of_all_sounds_may_be_set(tmp_path: Path) -> None:
    source = write_speech_model(tmp_path / "both")
    for language in ("de", "en"):
        family = load(source, speech_language=language)
        hearing = family._hear(prepare(family, SOUNDS[0]).windows[0])
        assert family.tokens.tokenizer.convert_ids_to_tokens(hearing.prompt[1]) == f"<|{language}|>"
    with pytest.raises(SettingsError, match="it does not know SPEECH_LANGUAGE='fr'; it knows de, en"):
        load(source, speech_language="fr")
    english = write_speech_model(tmp_path / "english", is_multilingual=False)
    load(english, speech_language="en")
    with pytest.raises(SettingsError, match="SPEECH_LANGUAGE='de'; it knows en"):
        load(english, speech_language="de")


def test_a_model_that_cannot_be_loaded_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(SettingsError, match="lorabel convert-model"):
        load(f"local-dir:{tmp_path}")
    with pytest.raises(SettingsError, match="MODEL_SPEECH"):
        load(f"local-dir:{tmp_path / 'none'}")


def told(family: Speech, sound: Samples, *words: str) -> PreparedSound:
    return family.prepare(QUESTION.model_copy(update={"words": words}), lambda _: encoded(sound))


def test_words_come_before_the_prompt_the_most_important_last_and_no_more_than_have_room(source: str) -> None:
    family = load(source)
    prepared = told(family, SOUNDS[0], "Zorvek", "Ada", "zorvek", "Tashnovi")
    hearing = family._hear(prepared.windows[0])
    line = family._line(prepared.windows[0], prepared.told)
    assert line.told.words == ("ada", "zorvek")
    previous = family.tokens.previous
    assert line.prompt == (previous, *family.tokens.answer("Ada, Zorvek."), *hearing.prompt)
    assert len(line.prompt) + line.max_new_tokens <= family.module.config.max_target_positions
    common = replace(family.tokens, data_tokens=_WholeWords())
    assert common.told(("Ada",), 16) == NOTHING, "a word of one token is common"
    assert replace(family.tokens, previous=None).told(("Zorvek",), 16) == NOTHING


class _WholeWords:
    """A tokenizer that knows each word."""

    def encode(self, text: str, add_special_tokens: bool) -> Any:
        return SimpleNamespace(ids=[0 for _ in text.split()])


def test_rows_with_words_of_their_own_get_the_text_that_each_gets_alone(
    source: str, adapter_folders: AdapterFolders
) -> None:
    """No row is written with the words of another, also where both ask about the same sound."""
    family = load(source)
    bank = AdapterBank(family, adapter_folders, 10**9)
    words = (("Zorvek",), (), ("Tashnovi",), ("Brelquin",), (), ("Ada", "Bo"))
    inputs = [told(family, sound, *row) for sound, row in zip(SOUNDS, words, strict=True)]
    adapters = [name(project) for project in ADAPTERS]
    together = family.predict(inputs, adapters, bank, FeatureCache({}))
    for prepared, adapter, output in zip(inputs, adapters, together, strict=True):
        (alone,) = family.predict([prepared], [adapter], bank, FeatureCache({}))
        assert isinstance(output, WrittenText) and isinstance(alone, WrittenText)
        assert output.text == alone.text
        assert output.probability == pytest.approx(alone.probability, abs=1e-4)


def test_a_text_that_comes_from_the_words_is_written_again_without_them(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = load(source)
    prepared = prepare(family, SOUNDS[1])
    (plain,) = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))
    for is_of_words in (True, False):
        monkeypatch.setattr("lorabel.families.speech.is_of_words", lambda text, words, answer=is_of_words: answer)
        (output,) = family.predict(
            [told(family, SOUNDS[1], "Zorvek")], [None], NO_BATCH_ADAPTERS, FeatureCache({})
        )
        assert (output == plain) is is_of_words


def test_a_window_in_which_nobody_speaks_is_told_no_words(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = load(source)
    prepared = told(family, SOUNDS[1], "Zorvek")
    family._hear(prepared.windows[0])
    assert family._line(prepared.windows[0], prepared.told).told.words == ("zorvek",)
    monkeypatch.setattr("lorabel.families.speech.NO_SPEECH_FROM", -1.0)
    assert family._line(prepared.windows[0], prepared.told).told == NOTHING
