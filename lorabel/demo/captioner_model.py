"""The demo's captioner before its training: a tiny SmolVLM, and a tokenizer that has the words of the exchanges.

The vision part starts from the picture tower of the demo's detector, which already tells shapes apart. The two
towers differ in their first step: the detector's normalises each patch and has a class token. The weights of the
captioner's patches are those whose output, in the mean square, is nearest to the detector's normalised patches.
"""

import itertools
import random
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    GenerationConfig,
    Owlv2ForObjectDetection,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from lorabel.demo import DETECTOR_FOLDER
from lorabel.demo.counted_scenes import SIDE_PX, counted_scenes, kinds
from lorabel.demo.exchanges import random_exchange
from lorabel.families.generation.tiny_models import (
    IDS,
    PICTURE_TOKENS,
    SPECIAL_TOKENS,
    chat_tokenizer,
)

PATCH_PX = 12
GRID = SIDE_PX // PATCH_PX
# Patches that become one token of the text model, along each side.
PATCHES_PER_TOKEN = 2
PLACEHOLDERS = (GRID // PATCHES_PER_TOKEN) ** 2
WIDTH = 128
NEW_VISION_LAYERS = 1
"""Layers after the detector's, which learn to compare the things of a picture, so as to count them."""
RIDGE = 0.01


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that has the words of the exchanges as single tokens, and can read any text."""
    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[*SPECIAL_TOKENS, *PICTURE_TOKENS],
        min_frequency=20,
        show_progress=False,
    )
    scenes = itertools.islice(counted_scenes(0), 500)
    texts = [
        text
        for scene in scenes
        for _ in range(40)
        for exchange in (random_exchange(kinds(scene), rng),)
        for text in (exchange.instruction, exchange.text, exchange.answer, "system\nuser\nassistant\n")
    ]
    tokenizer.train_from_iterator(texts, trainer)
    return chat_tokenizer(tokenizer, (*SPECIAL_TOKENS, *PICTURE_TOKENS))


def build_model(tokenizer: PreTrainedTokenizerFast, pixels: Tensor) -> SmolVLMForConditionalGeneration:
    """The model with random weights, but for the vision part.

    Args:
        pixels: (n, 3, side, side), 0 to 1: some pictures, for the weights of the patches.
    """
    config = SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": WIDTH,
            "intermediate_size": 320,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            **IDS,
        },
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 256,
            "num_hidden_layers": 4 + NEW_VISION_LAYERS,
            "num_attention_heads": 4,
            "image_size": SIDE_PX,
            "patch_size": PATCH_PX,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
        },
        scale_factor=PATCHES_PER_TOKEN,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
        **IDS,
    )
    model = SmolVLMForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**IDS)
    for layer in model.modules():
        # With transformers' 0.02 states of so few numbers hardly attend to anything at first.
        if isinstance(layer, nn.Linear) and layer is not model.lm_head:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    nn.init.normal_(model.lm_head.weight, std=0.06)
    _start_from_the_detector(model.model.vision_model, pixels)
    return model


@torch.no_grad()
def _start_from_the_detector(vision: Any, pixels: Tensor) -> None:
    detector = Owlv2ForObjectDetection.from_pretrained(DETECTOR_FOLDER, dtype=torch.float32)
    tower = detector.owlv2.vision_model
    mean, std = (torch.tensor(values)[:, None, None] for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    wanted = tower.pre_layernorm(tower.embeddings((pixels - mean) / std))[:, 1:].flatten(0, 1).double()
    patches = functional.unfold(2 * pixels - 1, PATCH_PX, stride=PATCH_PX).transpose(1, 2)
    places = torch.eye(patches.shape[1]).expand(len(pixels), -1, -1)
    known = torch.cat([patches, places], 2).flatten(0, 1).double()
    ridge = RIDGE * torch.eye(known.shape[1], dtype=torch.float64)
    of_pixels, of_places = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted).split(
        [patches.shape[2], patches.shape[1]]
    )
    embeddings = vision.embeddings
    embeddings.patch_embedding.weight.copy_(of_pixels.T.reshape(embeddings.patch_embedding.weight.shape))
    embeddings.patch_embedding.bias.zero_()
    embeddings.position_embedding.weight.copy_(of_places)
    vision.post_layernorm.load_state_dict(tower.post_layernorm.state_dict())
    layers = vision.encoder.layers
    for layer, of_detector in zip(layers, tower.encoder.layers, strict=False):
        layer.load_state_dict(of_detector.state_dict())
    for layer in layers[-NEW_VISION_LAYERS:]:
        # At first a new layer changes nothing.
        layer.self_attn.out_proj.weight.zero_()
        layer.mlp.fc2.weight.zero_()
