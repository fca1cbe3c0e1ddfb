"""Settings of the model server on several devices, `python -m model_server.ray_serve` (docs/scaling.md)."""

from pydantic import Field
from pydantic_settings import BaseSettings


class RaySettings(BaseSettings):
    """Part of `lorabel.settings.Settings`."""

    ray_address: str | None = Field(
        None, description="Ray cluster for `python -m model_server.ray_serve`; default: a new one on this machine."
    )
    replicas_min: int = Field(1, ge=1, description="Fewest replicas of the model server on Ray.")
    replicas_max: int = Field(
        1, ge=1, description="Most replicas of the model server on Ray; Ray starts more when requests wait."
    )
    replica_requests: int = Field(
        24, ge=1, description="Requests at a time on one replica above which Ray starts another."
    )
    replica_cpus: float = Field(1, gt=0, description="CPU cores that Ray sets aside for each replica.")
    replica_gpus: float = Field(
        1,
        gt=0,
        le=1,
        description="Share of a GPU that Ray sets aside for each replica; 0.25 puts four on each GPU. All of them "
        "have base models and adapters of their own in its memory.",
    )
