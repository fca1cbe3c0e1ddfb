"""transformers sentence encoders: each text becomes a vector, and the answer is the label with the nearest text.

Sentence-BERT (https://arxiv.org/abs/1908.10084): the last hidden states of a sentence's tokens are pooled into one
vector of length 1. The method of pooling is read from the files of sentence-transformers (`modules.json`,
`1_Pooling/config.json`); without these files it is the mean. Code in a model's repository is never run, and no
prefix is put before a text, so models that need either cannot be used.

Label texts have a tower of their own, which shares the base weights of the tower for contents. Adapters go on the
label tower only, unless LORA_TOWERS is `both`. Cached features of contents then stay valid for every adapter, and
a few annotations cannot damage them.
"""

import copy
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from lorabel.families.base import LOAD_DTYPE, transformers_name
from lorabel.families.encoders.explaining import ExplainingEncoder
from lorabel.families.lora_layers import trained_modalities
from lorabel.settings import Settings

CONTENTS, LABELS = "contents", "labels"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Models with 32768 tokens exist, but the end of a long text seldom adds enough to be worth the cost of attention.
MAX_TOKENS = 512
# Multiplies cosines to give logits: cosines of sentence encoders are close to each other. sentence-transformers
# trains with this number (`scale` of MultipleNegativesRankingLoss).
SCALE = 20.0
# Share of the states that are dropped in training, as in SimCSE (https://arxiv.org/abs/2104.08821). Texts are not
# changed in any other way; docs/decisions/0031 has figures.
DROPOUT = 0.1


@dataclass(frozen=True)
class TextEncoder(ExplainingEncoder):
    """Sentence encoders of transformers.

    Attributes:
        module: both towers, CONTENTS and LABELS.
        pooling: `mean` of the states of a text's tokens, or `cls`: the state of the first token.
        max_tokens: longer texts are cut off; special tokens are included.
        lora_towers: the setting LORA_TOWERS; `both` also puts adapters on the tower for contents.
    """

    name: ClassVar[str] = "text_encoder"
    modalities: ClassVar[frozenset[Modality]] = frozenset({Modality.TEXT})
    default_source: ClassVar[str] = "hf-hub:ibm-granite/granite-embedding-97m-multilingual-r2"
    divides_rows: ClassVar[bool] = False

    source: str
    module: nn.Module
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    pooling: str
    max_tokens: int
    lora_towers: str

    @classmethod
    def load(cls, source: str, device: torch.device, dtype: torch.dtype, settings: Settings) -> Self:
        """Load `hf-hub:owner/name` or `local-dir:folder`; see `Family.load`."""
        name = transformers_name(source)
        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
            module = AutoModel.from_pretrained(
                name, dtype=LOAD_DTYPE, use_safetensors=True, attn_implementation="sdpa"
            )
            pooling = _pooling_method(name)
            limit = _read_json(name, "sentence_bert_config.json").get("max_seq_length")
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise SettingsError(
                f"MODEL_TEXT_ENCODER={source!r} cannot be loaded: {error}; expected hf-hub:owner/name or "
                "local-dir:folder of a transformers model with safetensors weights"
            ) from error
        if hasattr(module, "pooler"):
            module.pooler = None  # a layer of BERT that sentence encoders do not use
        module.requires_grad_(False).eval().to(device=device, dtype=dtype)
        towers = nn.ModuleDict({CONTENTS: module, LABELS: _copy_with_shared_weights(module)})
        max_tokens = min(tokenizer.model_max_length, limit or MAX_TOKENS, MAX_TOKENS)
        return cls(source, towers, device, dtype, tokenizer, pooling, max_tokens, settings.lora_towers)

    @classmethod
    def tiny(cls, folder: Path) -> str:
        """Write a tiny BERT with a tokenizer of single ASCII characters; see `Family.tiny`."""
        characters = [chr(code) for code in range(33, 127)]
        tokens = [*SPECIAL_TOKENS, *characters, *(f"##{character}" for character in characters)]
        vocabulary = {token: index for index, token in enumerate(tokens)}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=64,
            **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL_TOKENS, strict=True)),
        ).save_pretrained(folder)
        BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        ).save_pretrained(folder)
        return f"local-dir:{folder}"

    @contextmanager
    def while_training(self) -> Iterator[None]:
        """A context in which the tower for contents drops a share of its states at random; see `DROPOUT`."""
        layers = [layer for layer in self.module[CONTENTS].modules() if isinstance(layer, nn.Dropout)]  # type: ignore[index]
        shares = [layer.p for layer in layers]
        try:
            for layer in layers:
                layer.p = DROPOUT
                layer.train()
            yield
        finally:
            for layer, share in zip(layers, shares, strict=True):
                layer.p = share
                layer.eval()

    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        """Compute the features of texts: (len(data), dim) float32 of length 1, on the device."""
        return self._encode(CONTENTS, data)

    def encode_labels(self, texts: Sequence[str]) -> Tensor:
        """Compute the features of label texts with their own tower; see `Encoder.encode_labels`."""
        return self._encode(LABELS, texts)

    def tower(self, modality: Modality) -> frozenset[str]:
        """Return the names of the layers for contents; the only modality is text."""
        return self._content_tower

    @cached_property
    def label_tower(self) -> frozenset[str]:
        """The names of the layers for label texts."""
        return frozenset(name for name in self.tower_layers() if name.startswith(f"{LABELS}."))

    @property
    def trained_modalities(self) -> frozenset[Modality]:
        """Text if LORA_TOWERS is `both`; else none, since only the tower for label texts is trained."""
        return trained_modalities(self.lora_towers, self.modalities, by_default=())

    @property
    def scale(self) -> float:
        """The same for all models; see `SCALE`."""
        return SCALE

    @cached_property
    def _content_tower(self) -> frozenset[str]:
        return frozenset(self.tower_layers()) - self.label_tower

    def _encode(self, tower: str, texts: Sequence[str]) -> Tensor:
        """(texts, dim) float32 of length 1, on the device. `tower`: CONTENTS or LABELS."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.device)
        module: nn.Module = self.module[tower]  # type: ignore[index]
        states: Tensor = module(**tokens).last_hidden_state.float()
        if self.pooling == "cls":
            return functional.normalize(states[:, 0], dim=-1)
        mask = tokens["attention_mask"][:, :, None].to(states.dtype)
        return functional.normalize((states * mask).sum(1), dim=-1)


def _copy_with_shared_weights(module: nn.Module) -> nn.Module:
    """Copy a module, but not its weights: both use the same memory."""
    weights = itertools.chain(module.parameters(), module.buffers())
    return copy.deepcopy(module, {id(weight): weight for weight in weights})


def _pooling_method(name: str) -> str:
    """Read the method of pooling, `mean` or `cls`, from the files of sentence-transformers.

    Raises:
        ValueError: the model uses another method, or a step other than normalisation comes after pooling.
    """
    modules = _read_json(name, "modules.json") or []
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ValueError(f"its modules.json has {', '.join(sorted(unknown))}, which is not served")
    if "Pooling" not in kinds:
        return "mean"
    config = _read_json(name, f"{modules[kinds.index('Pooling')]['path']}/config.json")
    modes = {
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token"): value
        for key, value in config.items()
        if key.startswith("pooling_mode_")
    }
    method = config.get("pooling_mode") or "+".join(mode for mode, is_on in modes.items() if is_on)
    if method not in ("mean", "cls"):
        raise ValueError(f"its pooling is {method!r}, expected mean or cls")
    return str(method)


def _read_json(name: str, file: str) -> Any:
    """Read a JSON file of the model; {} if there is no such file."""
    path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return {} if path is None else json.loads(Path(path).read_text())
