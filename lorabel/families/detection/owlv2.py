"""OWLv2 (https://arxiv.org/abs/2306.09683) in parts: what depends on the picture, on the label texts, and on both.

A picture is padded to a square at the right or below, and cut into patches. Each patch predicts one box, a class
embedding, and how a cosine between this and the embedding of a label text becomes a logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert
from transformers import Owlv2Config, Owlv2ForObjectDetection, PreTrainedTokenizerFast

# Names of the layers by what they read. `Owlv2ForObjectDetection` has others that no box depends on.
TEXT_LAYERS = ("model.owlv2.text_model.", "model.owlv2.text_projection")
ENCODER_LAYERS = ("model.owlv2.vision_model.",)
HEAD_LAYERS = ("model.class_head.", "model.box_head.")


@dataclass(frozen=True)
class PatchAnswers:
    """What the patches of some pictures say, without the labels.

    Args:
        corners: (pictures, patches, 4): left, top, right and bottom as fractions of the square.
        embeddings: (pictures, patches, dim) of length 1.
        shift: (pictures, patches, 1).
        scale: (pictures, patches, 1), above 0.
    """

    corners: Tensor
    embeddings: Tensor
    shift: Tensor
    scale: Tensor

    def logits(self, picture: int, label_features: Tensor) -> Tensor:
        """(patches, labels): logits that a label names what a patch of a picture shows.

        Args:
            label_features: (labels, dim) of length 1.
        """
        cosines = self.embeddings[picture] @ label_features.T
        return (cosines + self.shift[picture]) * self.scale[picture]


class Owlv2Parts(nn.Module):
    """The base model of the detector. PEFT asks a bare model of transformers for parts that some have not."""

    def __init__(self, model: Owlv2ForObjectDetection) -> None:
        super().__init__()
        self.model = model

    @property
    def width(self) -> int:
        """Numbers in the state of a patch."""
        return int(self.model.config.vision_config.hidden_size)

    @property
    def embedding_width(self) -> int:
        """Numbers in a class embedding."""
        return int(self.model.class_head.dense0.out_features)

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """(pictures, patches, width): the states of the patches.

        Args:
            pixels: (pictures, 3, side, side), normalised.
        """
        states: Tensor = self.model.image_embedder(pixels.to(self.model.dtype))[0]
        return states.flatten(1, 2)

    def encode_texts(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(texts, dim) float32 of length 1, from (texts, seq) int64 each."""
        outputs = self.model.owlv2.get_text_features(input_ids=tokens, attention_mask=mask)
        return functional.normalize(outputs.pooler_output.float(), dim=-1)

    def ask_patches(self, states: Tensor) -> PatchAnswers:
        """The answers of the patches in float32, from the states of `encode_pictures`."""
        states = states.to(self.model.dtype)
        # In bfloat16 the sum with the patch's place would be off by pixels.
        boxes = (self.model.box_head(states).float() + self.model.box_bias.to(states.device)).sigmoid()
        head = self.model.class_head
        return PatchAnswers(
            corners=box_convert(boxes, "cxcywh", "xyxy"),
            embeddings=functional.normalize(head.dense0(states).float(), dim=-1),
            shift=head.logit_shift(states).float(),
            scale=functional.elu(head.logit_scale(states).float()) + 1,
        )


def layers_of(names: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """Return the names that begin with one of the prefixes."""
    return [name for name in names if name.startswith(tuple(prefixes))]


def random_model(config: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> Owlv2ForObjectDetection:
    """A model with random weights whose heads begin small, and at which a patch sees nothing.

    transformers' heads begin with a standard deviation of 1, with which boxes saturate and never learn.

    Args:
        config: of `Owlv2Config`, without what the tokenizer decides.
    """
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = Owlv2ForObjectDetection(Owlv2Config(**{**config, "text_config": {**config["text_config"], **ids}}))
    for head in (model.class_head, model.box_head, model.objectness_head):
        for layer in head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
    for layer in (model.box_head.dense2, model.class_head.logit_shift, model.class_head.logit_scale):
        nn.init.normal_(layer.weight, std=0.01)
    # With transformers' 0.02 patches hardly know where they are, and boxes are learned late.
    nn.init.normal_(model.owlv2.vision_model.embeddings.position_embedding.weight, std=0.3)
    nn.init.constant_(model.class_head.logit_scale.bias, 7.0)
    nn.init.constant_(model.class_head.logit_shift.bias, -0.5)
    return model


def byte_level_tokenizer(
    symbols: Sequence[str], merges: Sequence[tuple[str, str]], max_tokens: int
) -> PreTrainedTokenizerFast:
    """A tokenizer of UTF-8 bytes that can read any label.

    OWLv2 takes a text's features at its largest token id, so `<eos>` is the last.

    Args:
        symbols: the bytes in `pre_tokenizers.ByteLevel`'s letters, and what `merges` make of them.
    """
    vocab = {symbol: token for token, symbol in enumerate(["<pad>", *symbols, "<bos>", "<eos>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    ends = [("<bos>", vocab["<bos>"]), ("<eos>", vocab["<eos>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=max_tokens,
    )


def tokenize(tokenizer: Any, texts: Sequence[str], max_tokens: int) -> tuple[Tensor, Tensor]:
    """(texts, seq) int64 tokens and mask; texts that are too long are cut."""
    encoding = tokenizer(list(texts), padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    return torch.as_tensor(encoding["input_ids"]), torch.as_tensor(encoding["attention_mask"])
