"""Computes the features of contents. Each distinct content of a batch goes through its tower once, unless cached.

How features become an answer is in `lorabel.families.encoders.encoder`.
"""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lorabel.contracts import BatchAdapters, Content, Input, MediaRef, Modality
from lorabel.families.base import DigestOf, Family, Fetch
from lorabel.families.cache import DECODED, FEATURES, FeatureCache
from lorabel.families.core_threads import with_adapters
from lorabel.families.encoders.prepared_input import (
    PreparedContent,
    PreparedInput,
    batches,
    content_digest,
    filled_up,
)
from lorabel.media.fetching import digest
from lorabel.media.text import read_text_file
from lorabel.picture_part import Part

# Longer texts are cut off. The models read far less; the limit is there because tokenizing takes time on the
# thread that owns the device.
MAX_CHARACTERS = 20_000
# Views that are precomputed of each content that is not a text: the content itself and augmented ones.
VIEWS = 4
# Most rows that go through a tower at once.
FEATURE_BATCH = 64


class DecodedKey(NamedTuple):
    """The key of a decoded file in the cache. The same file is decoded differently as a picture and as a video.

    Args:
        digest: see `content_digest`.
    """

    modality: Modality
    digest: str


class FeatureKey(NamedTuple):
    """The key of a content's features in the cache.

    Args:
        digest: see `content_digest`.
        adapter: the adapter if it changes the tower of this modality; None for the base model's features.
    """

    modality: Modality
    digest: str
    adapter: str | None


@dataclass(frozen=True)
class _MissingContent:
    """A content whose features must be computed with an adapter."""

    key: FeatureKey
    content: PreparedContent
    adapter: str | None


class ContentEncoder(Family):
    """Reads contents and turns them into features. The subclass says how a modality is decoded and encoded."""

    def read(self, modality: Modality, file: bytes) -> Tensor:
        """Decode a file that is not a text.

        Returns:
            a tensor on the CPU, as small as the model can use it. The shape depends on family and modality.

        Raises:
            UnreadableError: the file is broken or of an unknown format; this is permanent.
        """
        raise NotImplementedError(f"{self.name} reads no files of {modality}")

    def read_parts(self, file: bytes, parts: Sequence[Part]) -> Sequence[Tensor]:
        """Decode a picture once, and return each part of it as `read` returns pictures.

        Raises:
            UnreadableError: see `read`.
        """
        raise NotImplementedError(f"{self.name} reads no parts of pictures")

    @abstractmethod
    def encode(self, modality: Modality, data: Sequence[Any]) -> Tensor:
        """Compute the features of contents of one modality.

        Args:
            data: tensors that `read` or `jitter` returned, or texts.

        Returns:
            (len(data), dim) float32 of length 1, on the device.
        """

    def jitter(self, modality: Modality, data: Any, generator: torch.Generator) -> Any:
        """Change the data of a content a little at random, so that labels stay right. Texts are not changed.

        Args:
            data: a tensor that `read` returned, or a text.
            generator: on the CPU.
        """
        return data

    @abstractmethod
    def tower(self, modality: Modality) -> frozenset[str]:
        """Return the names of the layers that compute the features of contents of a modality."""

    def row_count(self, modality: Modality, data: Any) -> int:
        """Return how many rows of the tower's batch a content takes. A video, for example, takes one per frame."""
        return 1

    def prepare(self, question: Input, fetch: Fetch) -> PreparedInput:
        """Read and decode all contents of a question; see `Family.prepare`."""
        parts = self._prepare_parts(question.contents, fetch)
        return PreparedInput(
            question,
            tuple(
                parts[content] if content in parts else self._prepare_content(content, fetch)
                for content in question.contents
            ),
        )

    @torch.inference_mode()
    def precompute(
        self, prepared_inputs: Sequence[PreparedInput], trained: Collection[str], generator: torch.Generator | None
    ) -> Sequence[PreparedInput]:
        """Replace the data by features for each modality whose tower is not trained.

        Features of files are computed in `VIEWS` augmented views; `augment` then chooses one of them. Without a
        generator there is one view, the content itself.
        """
        contents = {id(content): content for prepared in prepared_inputs for content in prepared.contents}
        for modality in sorted({content.modality for content in contents.values()}):
            if self.tower(modality).isdisjoint(trained):
                decoded = [content for content in contents.values() if content.modality == modality]
                encoded = self._encode_views(decoded, generator)
                contents |= {id(content): views for content, views in zip(decoded, encoded, strict=True)}
        return [
            replace(prepared, contents=tuple(contents[id(content)] for content in prepared.contents))
            for prepared in prepared_inputs
        ]

    def augment(
        self, prepared_inputs: Sequence[PreparedInput], targets: Sequence[Any], generator: torch.Generator
    ) -> tuple[Sequence[PreparedInput], Sequence[Any]]:
        """Jitter each content, or choose one of its precomputed views. The targets stay right."""
        augmented = [
            replace(
                prepared,
                contents=tuple(self._augment_content(content, generator) for content in prepared.contents),
            )
            for prepared in prepared_inputs
        ]
        return augmented, targets

    def recall_contents(
        self, question: Input, digest_of: DigestOf, adapter: str | None, bank: BatchAdapters, cache: FeatureCache
    ) -> PreparedInput | None:
        """Build a `PreparedInput` from cached features, or else cached data; None if a content has neither.

        Where an adapter changes the features, the base model's are looked up as well, since a head may need both.
        """
        contents = []
        for content in question.contents:
            content_id = content_digest(content, digest_of)
            if content_id is None:
                return None
            key = self._feature_key(content.modality, content_id, adapter, bank)
            features, frozen = cache.get(FEATURES, key), None
            if key.adapter is not None:
                frozen = cache.get(FEATURES, key._replace(adapter=None))
            data = content.text and content.text[:MAX_CHARACTERS]
            if data is None and (features is None or (key.adapter is not None and frozen is None)):
                data = cache.get(DECODED, DecodedKey(content.modality, content_id))
            if features is None and data is None:
                return None
            views = None if features is None else features[None]
            contents.append(PreparedContent(content.modality, data, views, content_id, frozen))
        return PreparedInput(question, tuple(contents))

    def add_features(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> list[PreparedInput]:
        """Compute the features that are missing, each distinct content once, and put them into the cache.

        Args:
            adapters: one for each input.

        Returns:
            the inputs in the same order, with features on the CPU.
        """
        missing: dict[FeatureKey, _MissingContent] = {}
        keys: dict[int, FeatureKey] = {}
        for prepared, adapter in zip(prepared_inputs, adapters, strict=True):
            for content in prepared.contents:
                if content.features is None:
                    content_id = content.digest or str(id(content))
                    key = self._feature_key(content.modality, content_id, adapter, bank)
                    keys[id(content)] = key
                    missing.setdefault(key, _MissingContent(key, content, adapter))
        features = self._compute_features(missing.values(), bank, cache)
        return [
            replace(
                prepared,
                contents=tuple(
                    # Precomputed features are on the device.
                    replace(
                        content,
                        features=features[keys[id(content)]][None]
                        if content.features is None
                        else content.features.cpu(),
                    )
                    for content in prepared.contents
                ),
            )
            for prepared in prepared_inputs
        ]

    def add_frozen(
        self,
        prepared_inputs: Sequence[PreparedInput],
        adapters: Sequence[str | None],
        bank: BatchAdapters,
        cache: FeatureCache,
    ) -> list[PreparedInput]:
        """Compute the base model's features where an adapter changes them and a head needs both.

        Args:
            prepared_inputs: with features.
            adapters: one for each input.
        """
        inputs = list(prepared_inputs)
        indices = [
            index
            for index, (prepared, adapter) in enumerate(zip(prepared_inputs, adapters, strict=True))
            if prepared.is_for_head and self.lacks_frozen(prepared, adapter, bank)
        ]
        without_features = [_without_features(inputs[index]) for index in indices]
        with_frozen = self.add_features(without_features, [None] * len(indices), bank, cache)
        for index, frozen in zip(indices, with_frozen, strict=True):
            contents = zip(inputs[index].contents, frozen.contents, strict=True)
            inputs[index] = replace(
                inputs[index],
                contents=tuple(
                    replace(content, frozen=frozen_content.features[0])
                    for content, frozen_content in contents
                    if frozen_content.features is not None
                ),
            )
        return inputs

    def lacks_frozen(self, prepared: PreparedInput, adapter: str | None, bank: BatchAdapters) -> bool:
        """Whether an adapter changes features of contents whose base model's features are not there."""
        return any(
            content.frozen is None and bank.effective_adapter(adapter, self.tower(content.modality)) is not None
            for content in prepared.contents
        )

    def encode_contents(self, contents: Sequence[PreparedContent]) -> dict[int, Tensor]:
        """Compute the features of contents for training, with the adapter that PEFT has active.

        Returns:
            `id(content)` -> (dim,) float32 of length 1; with gradients where the features were not there before.
        """
        features = {id(content): content.features[0] for content in contents if content.features is not None}
        for modality in {content.modality for content in contents}:
            missing = [
                content for content in contents if content.modality == modality and content.features is None
            ]
            # Equal texts are encoded once. Files are encoded each, since each has been jittered in its own way.
            keys = {id(content): content.data if modality == Modality.TEXT else id(content) for content in missing}
            data = {keys[id(content)]: content.data for content in missing}
            if data:
                encoded = dict(zip(data, self.encode(modality, list(data.values())), strict=True))
                features |= {content_id: encoded[key] for content_id, key in keys.items()}
        return features

    def _prepare_content(self, content: Content, fetch: Fetch) -> PreparedContent:
        if content.media is None:
            text = (content.text or "")[:MAX_CHARACTERS]
            return PreparedContent(content.modality, text, digest=content_digest(content, lambda _: None))
        file = fetch(content.media)
        data: Any
        if content.text_format is None:
            data = self.read(content.modality, file)
        else:
            data = read_text_file(file, content.text_format)[:MAX_CHARACTERS]
        return PreparedContent(content.modality, data, digest=content_digest(content, lambda _: digest(file)))

    def _prepare_parts(self, contents: Sequence[Content], fetch: Fetch) -> dict[Content, PreparedContent]:
        """The contents that are parts of pictures; each picture is decoded once."""
        by_media: dict[MediaRef, list[Content]] = defaultdict(list)
        for content in contents:
            if content.media is not None and content.part is not None:
                by_media[content.media].append(content)
        parts = (self._parts_of(fetch(media), of_picture) for media, of_picture in by_media.items())
        return dict(pair for of_picture in parts for pair in of_picture)

    def _parts_of(self, file: bytes, contents: Sequence[Content]) -> Iterator[tuple[Content, PreparedContent]]:
        file_digest = digest(file)
        decoded = self.read_parts(file, [content.part for content in contents if content.part is not None])
        for content, data in zip(contents, decoded, strict=True):
            content_id = content_digest(content, lambda _: file_digest)
            yield content, PreparedContent(content.modality, data, digest=content_id)

    def _feature_key(
        self, modality: Modality, content_id: str, adapter: str | None, bank: BatchAdapters
    ) -> FeatureKey:
        return FeatureKey(modality, content_id, bank.effective_adapter(adapter, self.tower(modality)))

    def _compute_features(
        self, missing: Collection[_MissingContent], bank: BatchAdapters, cache: FeatureCache
    ) -> dict[FeatureKey, Tensor]:
        """(dim,) float32 on the CPU for each content; also puts it into the cache."""
        features: dict[FeatureKey, Tensor] = {}
        # The contents of a batch all take the same number of rows, so that the bank knows the adapter of each row.
        groups: dict[tuple[Modality, int], list[_MissingContent]] = defaultdict(list)
        for member in missing:
            modality = member.content.modality
            groups[modality, self.row_count(modality, member.content.data)].append(member)
        for (modality, row_count), group in groups.items():
            size = max(1, FEATURE_BATCH // row_count)
            for batch in batches(group, size):
                computed = batch if modality == Modality.TEXT else filled_up(batch, size, self.device)
                adapters = [member.adapter for member in computed]
                encode = partial(self.encode, modality)
                data = [member.content.data for member in computed]
                if modality == Modality.TEXT:  # not divided: the padding of texts goes by the longest
                    with bank.use(adapters):
                        encoded = encode(data)
                else:
                    encoded = with_adapters(encode, data, adapters, bank, self.device)
                rows = encoded[: len(batch)].cpu()
                # Rows are cloned: a view of a row would keep the whole batch in memory.
                features |= {member.key: row.clone() for member, row in zip(batch, rows, strict=True)}
            for member in group:
                self._put_into_cache(member, features[member.key], cache)
        return features

    def _put_into_cache(self, missing: _MissingContent, features: Tensor, cache: FeatureCache) -> None:
        content = missing.content
        if content.digest is None:
            return
        cache.put(FEATURES, missing.key, features)
        if isinstance(content.data, Tensor) and not content.is_part:
            cache.put(DECODED, DecodedKey(content.modality, content.digest), content.data)

    def _encode_views(
        self, contents: Sequence[PreparedContent], generator: torch.Generator | None
    ) -> Iterator[PreparedContent]:
        """Yield each content with features (views, dim) in place of data; all are of one modality."""
        modality = contents[0].modality
        view_count = 1 if generator is None or modality == Modality.TEXT else VIEWS
        row_count = max(self.row_count(modality, content.data) for content in contents)
        size = max(1, FEATURE_BATCH // (view_count * row_count))
        for batch in batches(contents, size):
            views = []
            for content in batch:
                views.append(content.data)
                if generator is not None:
                    views += [self.jitter(modality, content.data, generator) for _ in range(view_count - 1)]
            computed = views if modality == Modality.TEXT else filled_up(views, size * view_count, self.device)
            features = self.encode(modality, computed)[: len(views)].view(len(batch), view_count, -1)
            for content, content_features in zip(batch, features, strict=True):
                yield replace(content, data=None, features=content_features)

    def _augment_content(self, content: PreparedContent, generator: torch.Generator) -> PreparedContent:
        if content.features is None:
            return replace(content, data=self.jitter(content.modality, content.data, generator))
        view = int(torch.randint(len(content.features), (), generator=generator))
        return replace(content, features=content.features[view, None])


def _without_features(prepared: PreparedInput) -> PreparedInput:
    """The input with features of the base model alone, where they are known."""
    return replace(
        prepared,
        contents=tuple(
            replace(content, features=None if content.frozen is None else content.frozen[None])
            if content.data is not None or content.frozen is not None
            else content
            for content in prepared.contents
        ),
    )
