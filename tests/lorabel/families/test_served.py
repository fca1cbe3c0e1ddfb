"""Base models as they are served, with PRECISION=int8 above all."""

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lorabel.contracts import LabelScores, Modality
from lorabel.demo import DETECTOR_FOLDER, MODEL_FOLDER
from lorabel.demo.pictures import COLOURS, Picture
from lorabel.errors import SettingsError
from lorabel.families.audio_text_encoder import AudioTextEncoder
from lorabel.families.base import NO_BATCH_ADAPTERS, Family
from lorabel.families.cache import FeatureCache
from lorabel.families.detector import Detector
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.encoders.encoder import Encoder
from lorabel.families.generator import Generator
from lorabel.families.int8_layers import Int8Linear, has_int8_weights
from lorabel.families.loading import load_family
from lorabel.families.served import load_served, served_precision
from lorabel.families.text_encoder import CONTENTS, LABELS, TextEncoder
from lorabel.families.token_classifier import TokenClassifier
from lorabel.feature_contracts import Features, FeaturesInput
from lorabel.settings import Settings
from tests.lorabel.families.test_trained_grounding_dino import FOLDER, PARTS, average_precisions, scenes
from tests.questions import about_picture, about_text
from tests.workers.pictures import pictures

pytestmark = pytest.mark.slow

ENCODERS: tuple[type[Encoder], ...] = (DualEncoder, TextEncoder, AudioTextEncoder)


def settings(family_type: type[Family], folder: Path, precision: str = "int8") -> Settings:
    torch.manual_seed(0)
    source = family_type.tiny(folder / family_type.name)
    return Settings(models={family_type.name: source}, device="cpu", precision=precision)


@pytest.mark.parametrize("family_type", ENCODERS, ids=lambda family: family.name)
def test_encoders_are_served_with_weights_of_8_bits(family_type: type[Encoder], tmp_path: Path) -> None:
    served = load_served(family_type, settings(family_type, tmp_path))
    layers = dict(served.module.named_modules())
    assert isinstance(served, Encoder)
    assert {type(layers[name]) for name in served.tower_layers()} == {Int8Linear}
    assert not has_int8_weights(layers["heads"])
    assert len(served.lora_layers()) == len(
        load_family(family_type, settings(family_type, tmp_path)).lora_layers()
    )


@pytest.mark.parametrize("family_type", ENCODERS, ids=lambda family: family.name)
@torch.inference_mode()
def test_features_are_near_those_of_float32(family_type: type[Encoder], tmp_path: Path) -> None:
    of_float32 = load_family(family_type, settings(family_type, tmp_path, "float32"))
    served = load_served(family_type, settings(family_type, tmp_path))
    assert isinstance(of_float32, Encoder) and isinstance(served, Encoder)
    texts = ["a red circle", "the invoice is wrong", "x"]
    cosines = functional.cosine_similarity(served.encode_labels(texts), of_float32.encode_labels(texts))
    assert float(cosines.min()) > 0.999


def test_the_two_towers_of_a_text_encoder_share_their_weights(tmp_path: Path) -> None:
    served = load_served(TextEncoder, settings(TextEncoder, tmp_path))
    contents, labels = (
        [layer.packed for layer in served.module.get_submodule(tower).modules() if isinstance(layer, Int8Linear)]
        for tower in (CONTENTS, LABELS)
    )
    assert contents and all(one is other for one, other in zip(contents, labels, strict=True))


@pytest.fixture(scope="module")
def demo() -> DualEncoder:
    models = {"dual_encoder": f"local-dir:{MODEL_FOLDER}"}
    family = load_served(DualEncoder, Settings(models=models, device="cpu", precision="int8"))
    assert isinstance(family, DualEncoder)
    return family


def png(picture: Picture) -> bytes:
    file = io.BytesIO()
    picture.draw(96).save(file, "PNG")
    return file.getvalue()


def test_colours_of_drawn_pictures_are_recognised(demo: DualEncoder) -> None:
    drawn = pictures(40, seed=123)
    files = [png(picture) for picture in drawn]
    prepared = [demo.prepare(about_picture("x", tuple(COLOURS)), lambda _, file=file: file) for file in files]  # type: ignore[misc]
    answers = demo.predict(prepared, [None] * 40, NO_BATCH_ADAPTERS, FeatureCache({}))
    scores = [LabelScores.model_validate(answer).probabilities for answer in answers]
    guesses = [tuple(COLOURS)[each.index(max(each))] for each in scores]
    assert sum(guess == picture.colour for guess, picture in zip(guesses, drawn, strict=True)) >= 38


@torch.inference_mode()
def test_a_picture_has_the_same_features_alone_and_beside_others(demo: DualEncoder) -> None:
    pixels = [demo.read(Modality.IMAGE, png(picture)) for picture in pictures(9, seed=5)]
    together = demo.encode(Modality.IMAGE, pixels)
    alone = torch.cat([demo.encode(Modality.IMAGE, [each]) for each in pixels])
    # What differs in the last bit, in layers of float32, may be rounded to the next integer in those behind.
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)


@torch.inference_mode()
def test_a_text_has_the_same_features_beside_longer_texts(tmp_path: Path) -> None:
    served = load_served(TextEncoder, settings(TextEncoder, tmp_path))
    assert isinstance(served, TextEncoder)
    alone: Tensor = served.encode(Modality.TEXT, ["my bill is wrong"])
    padded = served.encode(Modality.TEXT, ["my bill is wrong", "w" * 60])[:1]
    torch.testing.assert_close(padded, alone, rtol=0, atol=1e-5)


def test_features_say_that_they_are_of_8_bits(tmp_path: Path) -> None:
    question = about_text("my bill is wrong", ("billing", "shipping"))
    spaces = {}
    for precision in ("float32", "bfloat16", "int8"):
        family = load_served(TextEncoder, settings(TextEncoder, tmp_path, precision))
        prepared = family.prepare(FeaturesInput.of(question), lambda _: b"")
        features = family.predict([prepared], [None], NO_BATCH_ADAPTERS, FeatureCache({}))[0]
        assert isinstance(features, Features)
        spaces[precision] = features.space
    assert spaces["int8"] == f"{spaces['float32']} in int8"
    assert spaces["bfloat16"] == spaces["float32"]


def test_a_gpu_is_refused_with_what_to_set(tmp_path: Path) -> None:
    on_meta = settings(DualEncoder, tmp_path).model_copy(update={"device": "meta"})
    with pytest.raises(
        SettingsError, match="on CPUs only, and DEVICE=meta is meta; set DEVICE=cpu, or PRECISION=auto"
    ):
        load_served(DualEncoder, on_meta)


def test_a_generator_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="the generator has no weights of 8 bits; set PRECISION=auto, or GENERATOR_URL"
    ):
        load_served(Generator, settings(Generator, tmp_path))


@pytest.mark.parametrize("folder", [DETECTOR_FOLDER, FOLDER], ids=["owlv2", "grounding-dino"])
def test_the_detector_finds_things_about_as_well_as_in_float32(folder: Path) -> None:
    drawn, names = scenes(2000, 30, pairs=PARTS), {pair: " ".join(pair) for pair in PARTS}
    found, spaces = {}, {}
    for precision in ("float32", "int8"):
        served = load_served(
            Detector,
            Settings(models={"detector": f"local-dir:{folder}"}, device="cpu", precision=precision),
        )
        assert isinstance(served, Detector)
        types = {type(served.module.get_submodule(name)) for name in served.int8_layers()}
        assert (types == {Int8Linear}) == (precision == "int8")
        precisions = average_precisions(served, drawn, names).values()
        found[precision], spaces[precision] = sum(precisions) / len(names), served.space
    assert found["float32"] > 0.5 and abs(found["int8"] - found["float32"]) < 0.05
    assert spaces["int8"] == f"{spaces['float32']} in int8"


def test_other_families_compute_as_with_auto(tmp_path: Path) -> None:
    of_int8 = load_served(TokenClassifier, settings(TokenClassifier, tmp_path))
    of_auto = load_served(TokenClassifier, settings(TokenClassifier, tmp_path, "auto"))
    assert of_int8.dtype == of_auto.dtype and not has_int8_weights(of_int8.module)


def test_the_precision_of_what_is_served_is_that_of_the_setting() -> None:
    precisions = [served_precision(Settings(device="cpu", precision=name)) for name in ("float32", "int8")]
    assert precisions == ["float32", "int8"]
