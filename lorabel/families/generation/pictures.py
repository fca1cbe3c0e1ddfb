"""Pictures in prompts: a file -> the tokens that stand for the picture, and the features read in their place.

    <fake_token_around_image><global-img><image><image> ... <image><fake_token_around_image>

The model's own processor makes the pixels, and says which tokens stand for them. Features come from the vision
part of the model, on which no adapter lies. So they are the same for all projects, and are remembered by content.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from PIL.Image import Image
from tokenizers import Tokenizer
from torch import Tensor

from lorabel.errors import UnreadableError
from lorabel.media.decode_memory import decode_memory
from lorabel.media.fetching import digest
from lorabel.media.image import decoded_image
from lorabel.media.video import decode_video
from lorabel.settings import Settings

# Model types of transformers whose pictures are read. Each is checked against its own `generate`.
VISION_MODELS = frozenset({"smolvlm", "idefics3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
# What the vision part reads of what the processor returns.
PIXELS, GRID = "pixel_values", "image_grid_thw"
VISION_INPUTS = (PIXELS, "pixel_attention_mask", GRID)
# Sides of a JPEG that are enough for any processor: the largest picture of SmolVLM2.
ENOUGH_PX = 2048
# Of a prompt, what pictures may take together.
SHARE_OF_PICTURES = 0.75


@dataclass(frozen=True)
class PictureFeatures:
    """What the language model reads of a picture.

    Args:
        tokens: all tokens that stand for the picture in a prompt.
        grid: patches (time, height, width) for models whose positions depend on them, else None.
        pooled: (placeholders, dim): in place of the embeddings of the placeholders among the tokens.
        deep: (placeholders, dim) for each of the first layers, to whose output they are added (DeepStack).
    """

    tokens: tuple[int, ...]
    grid: Tensor | None
    pooled: Tensor
    deep: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return sum(part.nbytes for part in (self.pooled, *self.deep)) + 8 * len(self.tokens)


@dataclass(eq=False)
class Picture:
    """A picture of a question. Only the thread that owns the device changes it.

    Args:
        digest: of the file, see `lorabel.media.fetching.digest`.
        tokens, grid: see `PictureFeatures`.
        inputs: what the vision part reads, on the CPU: up to some tens of MB.
        features: None before they are computed.
    """

    digest: str
    tokens: tuple[int, ...]
    grid: Tensor | None
    inputs: dict[str, Tensor] = field(default_factory=dict, repr=False)
    features: PictureFeatures | None = None

    @classmethod
    def remembered(cls, digest: str, features: PictureFeatures) -> "Picture":
        """A picture whose features are known."""
        return cls(digest, features.tokens, features.grid, features=features)

    def keep(self, features: PictureFeatures) -> None:
        """Keep the features, and no longer what they were computed from."""
        self.features, self.inputs = features, {}


@dataclass(frozen=True)
class PictureReader:
    """The processor of a vision-language model. Thread-safe.

    Attributes:
        processor: of transformers.
        template_tokens: tokenizes what stands for a picture.
        placeholder: the token whose embedding is replaced.
        max_prompt_tokens: of a prompt.
        settings: limits of pictures.
    """

    processor: Any
    template_tokens: Tokenizer
    placeholder: int
    max_prompt_tokens: int
    settings: Settings

    @classmethod
    def of(cls, processor: Any, template_tokens: Tokenizer, max_prompt_tokens: int, settings: Settings) -> Self:
        """Take a processor of transformers.

        Raises:
            ValueError: it has no token for pictures.
        """
        placeholder = template_tokens.token_to_id(processor.image_token)
        if placeholder is None:
            raise ValueError(f"its tokenizer does not know {processor.image_token!r}")
        return cls(processor, template_tokens, placeholder, max_prompt_tokens, settings)

    def read(self, file: bytes, count: int) -> Picture:
        """Make the pixels and the tokens of a picture. One with too many tokens is shrunk.

        Args:
            count: how many pictures the question has.

        Raises:
            UnreadableError: for good; the file is no picture, or too large, see `decode_image`. For now; it has
                too many tokens at whatever size.
        """
        memory = decode_memory(self.settings.media_decode_mb)
        with decoded_image(file, self.settings.media_max_megapixels, ENOUGH_PX, memory) as image:
            return self._read(image, digest(file), self.most_tokens(count))

    def read_video(self, file: bytes, count: int) -> list[Picture]:
        """Make the pixels and the tokens of frames of a video, GENERATOR_VIDEO_FRAMES at even distances.

        Args:
            count: see `read`; each frame is a picture.

        Raises:
            UnreadableError: see `lorabel.media.video.decode_video` and `read`.
        """
        settings, file_digest = self.settings, digest(file)
        frames = decode_video(
            file,
            settings.generator_video_frames,
            settings.video_clip_s,
            settings.media_max_megapixels,
            ENOUGH_PX,
            decode_memory(settings.media_decode_mb),
        )
        most = self.most_tokens(count)
        return [self._read(image, frame_digest(file_digest, i), most) for i, image in enumerate(frames)]

    def most_tokens(self, count: int) -> int:
        """Most tokens of each of some pictures in a prompt."""
        of_prompt = int(SHARE_OF_PICTURES * self.max_prompt_tokens / max(1, count))
        return min(self.settings.generator_max_picture_tokens, of_prompt)

    def _read(self, image: Image, file_digest: str, most_tokens: int) -> Picture:
        options: dict[str, Any] = {"return_tensors": "pt", **getattr(self.processor, "images_kwargs", {})}
        tokens: tuple[int, ...] = ()
        for size in self._sizes(most_tokens):
            encoded = self.processor.image_processor([[image]], size=size, **options)
            text = self.processor.replace_image_token(encoded, 0)
            tokens = tuple(self.template_tokens.encode(text, add_special_tokens=False).ids)
            if len(tokens) <= most_tokens:
                inputs = {name: encoded[name] for name in VISION_INPUTS if name in encoded}
                return Picture(file_digest, tokens, inputs.get(GRID), inputs)
        raise UnreadableError(
            f"the picture takes {len(tokens)} tokens, more than {most_tokens}; raise "
            "GENERATOR_MAX_PICTURE_TOKENS, or GENERATOR_MAX_PROMPT_TOKENS where a task has several pictures",
            is_permanent=False,
        )

    def _sizes(self, most_tokens: int) -> Iterator[dict[str, int]]:
        """What to tell the image processor about the size of a picture: what it does by default, then less."""
        images = self.processor.image_processor
        size = {name: value for name, value in dict(images.size).items() if value is not None}
        if hasattr(images, "merge_size"):
            # These are not sides, but the fewest and the most pixels.
            most = min(size["longest_edge"], most_tokens * (images.patch_size * images.merge_size) ** 2)
            yield {"shortest_edge": min(size["shortest_edge"], most), "longest_edge": most}
            return
        yield size
        if getattr(images, "do_image_splitting", False):
            # Any picture is enlarged to this size, and cut into tiles.
            tile = int(images.max_image_size["longest_edge"])
            for tiles in range(math.ceil(size["longest_edge"] / tile) - 1, 0, -1):
                yield {"longest_edge": tiles * tile}


def frame_digest(file_digest: str, number: int) -> str:
    """Return what stands for the digest of a frame of a video; numbers begin at 0."""
    return f"{file_digest} frame {number}"


def compute_features(module: Any, picture: Picture) -> PictureFeatures:
    """Compute the features of a picture with the vision part of a model."""
    inputs = {name: value.to(module.device) for name, value in picture.inputs.items()}
    inputs[PIXELS] = inputs[PIXELS].to(module.dtype)
    with torch.no_grad():
        output = module.get_image_features(**inputs, return_dict=True)
    deep = getattr(output, "deepstack_features", None) or ()
    pooled = torch.cat(list(output.pooler_output))
    return PictureFeatures(picture.tokens, picture.grid, pooled, tuple(torch.cat(list(layer)) for layer in deep))


def rope_positions(
    module: Any, prompt: Sequence[int], pictures: Sequence[Picture], placeholder: int
) -> Tensor | None:
    """The positions (3, tokens) in time, height and width of a prompt's tokens, for models that have such.

    None for other models, and where there is no picture.
    """
    if not pictures or not hasattr(module.base_model, "get_rope_index"):
        return None
    tokens = torch.tensor([prompt])
    grids = torch.cat([picture.grid for picture in pictures if picture.grid is not None])
    is_picture = (tokens == placeholder).int()
    positions, _ = module.base_model.get_rope_index(tokens, mm_token_type_ids=is_picture, image_grid_thw=grids)
    return torch.as_tensor(positions[:, 0])
