"""The settings of media: what may be read, and how much of it. They are a part of `lorabel.settings.Settings`."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class MediaSettings(BaseSettings):
    """The field `media_max_mb` is the environment variable MEDIA_MAX_MB, and so on."""

    media_allowed_hosts: str = Field(
        "", description="Private hosts that media may come from: `host` or `host:port`, comma separated."
    )
    local_files_document_root: Path | None = Field(
        None, description="Folder under which `/data/local-files/?d=` paths may be read; none by default."
    )
    media_max_mb: int = Field(64, ge=1, description="Largest media file, in MB.")
    media_max_megapixels: int = Field(100, ge=1, description="Largest picture, or frame of a video.")
    media_decode_mb: int = Field(
        1792,
        ge=256,
        description="Most memory of a process for decoding pictures and videos, in MB; others wait meanwhile. An "
        "eighth is kept for small ones.",
    )
    decoders: int | None = Field(
        None,
        ge=0,
        description="Processes of the model server that fetch files and decode pictures; 0: its own threads do. "
        "Default: 0 with one or two cores and on Ray, else one less than there are cores, at most 4.",
    )
    video_frames: int = Field(8, ge=1, le=64, description="Frames that are read from a video, at even distances.")
    video_clip_s: float = Field(
        0.0,
        ge=0,
        description="Longest part of a video that is read, in seconds, around its middle; 0 for the whole video.",
    )
    video_pooling: Literal["mean", "max"] = Field(
        "mean",
        description="How the features of frames are combined: `max` if a single frame can decide the label.",
    )
    video_sound: bool = Field(
        True,
        description="Answer questions about whole videos also by their sound, once annotations show that it "
        "counts. Loads `audio_text_encoder` when the first annotated video has a sound.",
    )
    video_speech: bool = Field(
        True,
        description="Answer them also by what is said: by the video's subtitles, else by the transcript. Loads "
        "`text_encoder`, and `speech` for videos without subtitles.",
    )
    audio_max_s: float = Field(
        30.0, ge=1, description="Longest part of a recording that is read, in seconds, around its middle."
    )
    segments_max_s: float = Field(
        120.0,
        ge=1,
        description="Longest part of a recording that is searched for segments, in seconds, from its beginning.",
    )
    segments_step_s: float = Field(
        0.25, ge=0.02, description="Seconds between the windows of a sound, or frames of a video, in that search."
    )
    series_max_points: int = Field(2_000_000, ge=1, description="Most points of a series that is read.")
    media_fresh_s: float = Field(
        300.0,
        ge=0,
        description="Seconds for which a file is not fetched again if its features are still in memory.",
    )
    media_timeout_s: float = Field(20.0, gt=0, description="Seconds for one download.")

    @property
    def hears_videos(self) -> bool:
        """Whether questions about whole videos are answered from more than their frames."""
        return self.video_sound or self.video_speech
