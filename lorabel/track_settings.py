"""The settings of tracks in videos. They are read as a part of `lorabel.settings.Settings`."""

from pydantic import Field
from pydantic_settings import BaseSettings


class TrackSettings(BaseSettings):
    """The field `tracks_max_frames` is the environment variable TRACKS_MAX_FRAMES, and so on."""

    tracks_frames_per_s: float = Field(
        5.0, gt=0, description="Frames of a video that are looked at for tracks, in each second."
    )
    tracks_max_frames: int = Field(
        600, ge=2, description="Most of these frames in a video; in a longer video they are further apart."
    )
    tracks_tolerance_percent: float = Field(
        1.5,
        ge=0,
        description="Percent of the picture's sides that a track between its keyframes may be off what was found.",
    )
