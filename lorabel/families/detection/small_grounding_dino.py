"""Small MM-GroundingDINO models with new weights, for tests and for training on drawn scenes."""

import math
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    GroundingDinoImageProcessor,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    PreTrainedTokenizerFast,
)

# The tokens that BERT's English vocabulary has at these places, which the model's code relies on.
PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
PUNCTUATION = "".join(sorted(set(string.punctuation) - set(".?")))
MAX_TOKENS = 256


def wordpiece_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer like BERT's, with a token for each of the words; other words are spelled."""
    letters = string.ascii_lowercase + string.digits
    known = [*PUNCTUATION, *letters, *(f"##{letter}" for letter in letters)]
    vocab = dict(PLACES)
    free = (place for place in range(10**6) if place not in PLACES.values())
    for token in dict.fromkeys([*known, *words]):
        vocab[token] = next(free)
    for place in sorted(set(range(max(vocab.values()))) - set(vocab.values())):
        vocab[f"[unused{place}]"] = place
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
    )


def small_config(tokenizer: PreTrainedTokenizerFast, width: int, embed_dim: int, queries: int) -> dict[str, Any]:
    """The config of a model for pictures of about 64 pixels, with two levels of feature maps of 8 and 16 pixels.

    Args:
        width: of texts, encoder and decoder; a multiple of 64.
        embed_dim: of the first stage of the backbone; a multiple of 16.
        queries: most boxes in a picture.
    """
    heads = width // 16
    return {
        "backbone_config": {
            "model_type": "swin",
            "image_size": 64,
            "patch_size": 4,
            "embed_dim": embed_dim,
            "depths": [1, 1, 1],
            "num_heads": [embed_dim // 16, embed_dim // 8, embed_dim // 4],
            "window_size": 4,
            "out_indices": [2, 3],
            "drop_path_rate": 0.0,
        },
        "text_config": {
            "model_type": "bert",
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "intermediate_size": 2 * width,
            "max_position_embeddings": MAX_TOKENS,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "num_queries": queries,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "d_model": width,
        "encoder_ffn_dim": 2 * width,
        "decoder_ffn_dim": 2 * width,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "num_feature_levels": 2,
        "dropout": 0.0,
        "fusion_droppath": 0.0,
        "decoder_bbox_embed_share": False,
        "decoder_cls_embed_share": False,
    }


def random_model(config: dict[str, Any]) -> MMGroundingDinoForObjectDetection:
    """A model with random weights at which each layer passes on what it gets.

    transformers' own are made to be overwritten: a standard deviation of 0.02, and a fusion of picture and texts
    that is multiplied by 0.0001.
    """
    model = MMGroundingDinoForObjectDetection(MMGroundingDinoConfig(**config))
    # These begin with what Deformable DETR gives them: points around the place, and boxes that are not moved.
    kept = ("sampling_offsets", "attention_weights", "bbox_embed")
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and not any(part in name for part in kept):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        elif isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=math.prod(layer.weight.shape[1:]) ** -0.5)
    for layer in model.model.encoder.layers:
        for scale in (layer.fusion_layer.vision_param, layer.fusion_layer.text_param):
            nn.init.constant_(scale, 0.3)
    nn.init.normal_(model.model.text_backbone.embeddings.word_embeddings.weight, std=0.3)
    torch.nn.init.normal_(model.model.query_position_embeddings.weight, std=0.3)
    return model


def save_model(
    model: MMGroundingDinoForObjectDetection, tokenizer: PreTrainedTokenizerFast, side_px: int, folder: Path
) -> None:
    """Write a folder that `from_pretrained` of transformers loads.

    Args:
        side_px: the longer side of a picture, whatever its shape.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GroundingDinoImageProcessor(size={"shortest_edge": side_px, "longest_edge": side_px}).save_pretrained(folder)
