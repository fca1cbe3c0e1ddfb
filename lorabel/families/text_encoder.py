"""transformers sentence encoders: every text becomes a vector, and the nearest label text is the answer.

Sentence-BERT (https://arxiv.org/abs/1908.10084): the last hidden states of a sentence's tokens are pooled into one
vector of length 1. How they are pooled is read where sentence-transformers keeps it (`modules.json`,
`1_Pooling/config.json`); a model that says nothing is pooled by the mean. No code of a model's repository is run,
no prefix is put before a text: models that need either are not for this family.

Label texts have a tower of their own, which shares the weights of the one for contents: adapters go on it alone,
unless LORA_TOWERS is `both`, so that what was computed of contents stays right and few annotations cannot bend it.
"""

import copy
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import cached_file

from lorabel.contracts import Modality
from lorabel.errors import SettingsError
from lorabel.families.encoders.encoder import Encoder
from lorabel.settings import Settings

CONTENTS, LABELS = "contents", "labels"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# What attention over more costs is seldom worth what the end of a long text tells; models with 32768 exist.
MOST_TOKENS = 512
# Cosines of sentence encoders lie close together. sentence-transformers trains with this (`scale` of
# MultipleNegativesRankingLoss), so a model's logits are cosines times it.
SCALE = 20.0


@dataclass(frozen=True)
class TextEncoder(Encoder):
    """`module` has both towers. `pooling`: `mean` over a text's tokens, or `cls`, its first one's."""

    name: ClassVar[str] = "text_encoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    default_source: ClassVar[str] = "hf-hub:ibm-granite/granite-embedding-97m-multilingual-r2"

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    pooling: str
    most_tokens: int
    towers: str

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        name = source.removeprefix("local-dir:").removeprefix("hf-hub:")
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            module = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True, attn_implementation="sdpa")
            pooling, limit = _pooling(name), _json(name, "sentence_bert_config.json").get("max_seq_length")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise SettingsError(
                f"MODEL_TEXT_ENCODER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a transformers model with safetensors weights"
            ) from error
        if hasattr(module, "pooler"):
            module.pooler = None  # BERT's, which sentence encoders do not use
        module.requires_grad_(False).eval().to(device)
        towers = nn.ModuleDict({CONTENTS: module, LABELS: _sharing_weights(module)})
        most_tokens = min(tokenizer.model_max_length, limit or MOST_TOKENS, MOST_TOKENS)
        return cls(source, towers, device, dtype, tokenizer, pooling, most_tokens, settings.lora_towers)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        characters = [chr(code) for code in range(33, 127)]
        words = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
        tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=64,
            **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True)),
        ).save_pretrained(folder)
        BertModel(
            BertConfig(
                vocab_size=len(words),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        ).save_pretrained(folder)
        return f"local-dir:{folder}"

    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        return self._encode(CONTENTS, data)

    def encode_labels(self, texts: Sequence[str]) -> Tensor:
        return self._encode(LABELS, texts)

    def tower(self, modality: Modality) -> frozenset[str]:
        return self._content_tower

    @cached_property
    def label_tower(self) -> frozenset[str]:
        return frozenset(name for name in self.tower_layers() if name.startswith(f"{LABELS}."))

    @property
    def trained_modalities(self) -> frozenset[Modality]:
        return self.modalities if self.towers == "both" else frozenset()

    @property
    def scale(self) -> float:
        return SCALE

    @cached_property
    def _content_tower(self) -> frozenset[str]:
        return frozenset(self.tower_layers()) - self.label_tower

    def _encode(self, tower: str, texts: Sequence[str]) -> Tensor:
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.most_tokens, return_tensors="pt"
        ).to(self.device)
        module: nn.Module = self.module[tower]  # type: ignore[index]
        states: Tensor = module(**tokens).last_hidden_state.float()
        if self.pooling == "cls":
            return functional.normalize(states[:, 0], dim=-1)
        mask = tokens["attention_mask"][:, :, None].to(states.dtype)
        return functional.normalize((states * mask).sum(1), dim=-1)


def _sharing_weights(module: nn.Module) -> nn.Module:
    """Another module with the same weights in memory."""
    weights = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(weight): weight for weight in weights})


def _pooling(name: str) -> str:
    """Raises ValueError: it is neither `mean` nor `cls`, or something else than a length of 1 comes after it."""
    modules = _json(name, "modules.json") or []
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ValueError(f"its modules.json has {', '.join(sorted(unknown))}, which is not served")
    if "Pooling" not in kinds:
        return "mean"
    config = _json(name, f"{modules[kinds.index('Pooling')]['path']}/config.json")
    modes = {
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token"): value
        for key, value in config.items()
        if key.startswith("pooling_mode_")
    }
    chosen = config.get("pooling_mode") or "+".join(mode for mode, is_on in modes.items() if is_on)
    if chosen not in ("mean", "cls"):
        raise ValueError(f"its pooling is {chosen!r}, expected mean or cls")
    return str(chosen)


def _json(name: str, file: str) -> Any:
    """A file of the model's; {} if it has none of that name."""
    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else json.loads(Path(path).read_text())
