"""OWLv2 (https://arxiv.org/abs/2306.09683) in parts: what depends on the picture, on the label texts, and on both.

A picture is padded to a square at the right or below, and cut into patches. Each patch predicts one box, a class
embedding, and how a cosine between this and the embedding of a label text becomes a logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert
from transformers import (
    AutoTokenizer,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import PILImageResampling

from lorabel.contracts import BatchAdapters
from lorabel.families.base import LOAD_DTYPE
from lorabel.families.cache import TEXTS, FeatureCache
from lorabel.families.detection.box_model import Asked, BoxModel, Places, batches, normalised
from lorabel.families.detection.square_resizing import resized_to_square
from lorabel.media.plain_jpeg import Pixels


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

    def features(self, picture: int) -> Tensor:
        """(patches, dim + 1): what the logits of a patch are linear in, whatever the label.

        With the embedding of a label text, and 1 for the last number, as weights they are the base model's logits.
        """
        embeddings, shift, scale = (part[picture] for part in (self.embeddings, self.shift, self.scale))
        return torch.cat([embeddings, shift], dim=-1) * scale


class Owlv2(BoxModel):
    """An OWLv2. `Owlv2ForObjectDetection` has layers beside these that no box depends on."""

    text_layers = ("model.owlv2.text_model.", "model.owlv2.text_projection")
    encoder_layers = ("model.owlv2.vision_model.",)
    head_layers = ("model.class_head.", "model.box_head.")
    # OWLv2 cuts each picture into 3600 patches.
    most_rows = 8

    def __init__(self, model: Owlv2ForObjectDetection, processor: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.processor, self.tokenizer = model, processor, tokenizer

    @classmethod
    def load(cls, name: str) -> Self:
        """Load what `from_pretrained` of transformers calls by this name."""
        processor = Owlv2ImageProcessor.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True, trust_remote_code=False)
        model = Owlv2ForObjectDetection.from_pretrained(name, use_safetensors=True, dtype=LOAD_DTYPE)
        return cls(model, processor, tokenizer)

    def place_on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move the model to a device, in a precision."""
        return self.to(device=device, dtype=dtype)

    @cached_property
    def _names_of_text_layers(self) -> frozenset[str]:
        return frozenset(self.layers(*self.text_layers))

    @property
    def longest_px(self) -> int:
        """The side of the square in pixels."""
        return int(self.processor.size["height"])

    @property
    def feature_dim(self) -> int:
        """The numbers of a class embedding, and the shift."""
        return int(self.model.class_head.dense0.out_features) + 1

    def prepare(self, image: Pixels | Image.Image) -> tuple[Tensor, tuple[float, float]]:
        """(3, side, side) uint8, padded to a square, and the part of it that the picture covers."""
        pixels = torch.from_numpy(np.array(image))
        height, width, _ = pixels.shape
        extent = width / max(width, height), height / max(width, height)
        if self._pads_and_samples:
            return resized_to_square(pixels, self.longest_px), extent
        prepared = self.processor(pixels.permute(2, 0, 1), do_normalize=False, return_tensors="pt")
        return (prepared["pixel_values"][0] * 255).round().clamp(0, 255).to(torch.uint8), extent

    @cached_property
    def _pads_and_samples(self) -> bool:
        """Whether `preprocessor_config.json` asks for what all published models ask for."""
        size, steps = self.processor.size, ("do_pad", "do_resize", "do_rescale")
        has_steps = all(getattr(self.processor, step) for step in steps)
        is_bilinear = self.processor.resample == PILImageResampling.BILINEAR
        return has_steps and is_bilinear and size["height"] == size["width"]

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """(pictures, patches, width): the states of the patches.

        Args:
            pixels: (pictures, 3, side, side) uint8.
        """
        states: Tensor = self.model.image_embedder(normalised(pixels, self.processor).to(self.model.dtype))[0]
        return states.flatten(1, 2)

    def encode_texts(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(texts, dim) float32 of length 1, from (texts, seq) int64 each."""
        outputs = self.model.owlv2.get_text_features(input_ids=tokens, attention_mask=mask)
        return functional.normalize(outputs.pooler_output.float(), dim=-1)

    def encode_labels(
        self, labels: tuple[tuple[str, ...], ...], bank: BatchAdapters, adapter: str | None
    ) -> Tensor:
        """(labels, dim) float32 of length 1, on the device: for each label the mean of its texts."""
        texts = [text for label_texts in labels for text in label_texts]
        max_tokens = self.model.config.text_config.max_position_embeddings
        tokens, mask = tokenize(self.tokenizer, texts, max_tokens)
        with bank.use([adapter] * len(texts)):
            features = self.encode_texts(tokens.to(self.device), mask.to(self.device))
        by_label = torch.split(features, [len(label_texts) for label_texts in labels])
        return functional.normalize(torch.stack([of_label.mean(0) for of_label in by_label]), dim=-1)

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

    def ask(
        self, questions: Sequence[Asked], adapters: Sequence[str | None], bank: BatchAdapters, cache: FeatureCache
    ) -> list[Places]:
        """Answer each question with its adapter. Labels that several questions have are encoded once."""
        keys = [
            (bank.effective_adapter(adapter, self._names_of_text_layers), question.labels)
            for adapter, question in zip(adapters, questions, strict=True)
        ]
        label_features: dict[Any, Tensor] = {}
        for key in dict.fromkeys(keys):
            features = cache.get(TEXTS, key)
            if features is None:
                adapter, labels = key
                features = self.encode_labels(labels, bank, adapter)
                cache.put(TEXTS, key, features.cpu())
            label_features[key] = features.to(self.device)
        places: dict[int, Places] = {}
        for rows in batches([question.states.shape for question in questions], self.most_rows):
            states = torch.stack([questions[row].states.to(self.device) for row in rows])
            with bank.use([adapters[row] for row in rows]):
                answers = self.ask_patches(states)
            with torch.autocast(self.device.type, enabled=False):
                for index, row in enumerate(rows):
                    logits = answers.logits(index, label_features[keys[row]])
                    places[row] = Places(answers.corners[index], logits, partial(answers.features, index))
        return [places[row] for row in range(len(questions))]

    def directions(self, features: Tensor) -> Tensor:
        """(patches, dim): the class embeddings."""
        directions: Tensor = functional.normalize(features[:, :-1], dim=-1)
        return directions

    def logits_of_likeness(self, features: Tensor, cosines: Tensor) -> Tensor:
        """(patches, labels): the logits of label texts with these cosines (image-guided detection)."""
        scale: Tensor = features[:, :-1].norm(dim=-1, keepdim=True)
        return cosines * scale + features[:, -1:]


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
