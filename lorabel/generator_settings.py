"""The settings of models that write texts or transcripts. They are a part of `lorabel.settings.Settings`."""

from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings


class GeneratorSettings(BaseSettings):
    """The field `generator_beams` is the environment variable GENERATOR_BEAMS, and so on."""

    generator_max_prompt_tokens: int = Field(
        2048, ge=16, description="Most tokens of a prompt; a text loses its end, a dialogue its beginning."
    )
    generator_max_picture_tokens: int = Field(512, ge=1, description="Most tokens of a picture in a prompt.")
    generator_video_frames: int = Field(
        4, ge=1, le=64, description="Frames of a video in a prompt, at even distances; each is a picture."
    )
    generator_max_new_tokens: int = Field(256, ge=1, description="Most tokens that a model writes for a task.")
    generator_beams: int = Field(
        1,
        ge=1,
        le=16,
        description="Lines of each answer that a beam search writes side by side, of which the likeliest is kept.",
    )
    generator_memory_mb: int = Field(
        1024,
        ge=1,
        description="MB for keys and values of texts that are written, and of labels that are scored; rows wait.",
    )
    generator_checkpointing: bool = Field(
        False, description="Train the generator with less memory and a third more time (gradient checkpointing)."
    )
    generator_4bit: bool = Field(
        False,
        description="Keep the generator's weights in 4 bits (NF4); needs CUDA and the package bitsandbytes.",
    )
    generator_url: str | None = Field(
        None, description="Server with OpenAI's API, such as vLLM, that writes in place of the model server."
    )
    generator_api_key: SecretStr | None = Field(None, description="Key for GENERATOR_URL, if it needs one.")
    generator_model: str | None = Field(
        None, description="Name of the base model at GENERATOR_URL; default: MODEL_GENERATOR without its prefix."
    )
    generator_adapters_dir: Path | None = Field(
        None, description="DATA_DIR/adapters as the server at GENERATOR_URL sees it; default: the same path."
    )
    generator_timeout_s: float = Field(120.0, gt=0, description="Seconds for one request to GENERATOR_URL.")
    generator_problems: str = Field(
        "",
        description="Problems that the generator answers, e.g. `text_classification,named_entities,rating`; not "
        "with GENERATOR_URL.",
    )

    speech_max_s: float = Field(
        1800.0,
        ge=1,
        description="Longest part of a recording that is transcribed, in seconds, from its beginning.",
    )
    speech_language: str = Field(
        "", description="Language of all recordings, as a code such as `de`; default: as the model hears it."
    )

    @model_validator(mode="after")
    def check_generator(self) -> Self:
        if self.generator_url and self.generator_problems.strip():
            raise ValueError(
                f"GENERATOR_PROBLEMS={self.generator_problems!r} needs a model that scores labels and copies "
                "spans, and the server of GENERATOR_URL only writes texts; unset one of them"
            )
        return self
