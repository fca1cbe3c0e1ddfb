"""Every environment variable, typed and documented. Nothing else reads the environment.

The README's table of settings is made from this file (`tests/test_docs.py` compares them).
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LONGEST_SOCKET_PATH = 100


def _by_name(prefix: str) -> dict[str, str]:
    """`MODEL_DUAL_ENCODER=...` -> `{"dual_encoder": ...}`, for any family or problem, also of other packages."""
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in os.environ.items()
        if name.startswith(prefix) and not name.startswith("MODEL_SERVER_") and value
    }


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    label_studio_url: str | None = Field(None, description="Address of Label Studio as this machine sees it.")
    label_studio_api_key: SecretStr | None = Field(
        None,
        description="Personal access token (or legacy token) of a Label Studio user who sees the projects.",
    )
    label_studio_port: int = Field(8080, description="Port of the Label Studio that `lorabel demo` starts.")
    basic_auth_user: str | None = Field(None, description="User name that every endpoint demands.")
    basic_auth_pass: SecretStr | None = Field(None, description="Password that every endpoint demands.")

    host: str = Field("127.0.0.1", description="Address that the backend listens on.")
    port: int = Field(9090, description="Port that the backend listens on.")
    workers: int = Field(1, ge=1, description="Processes of the backend.")
    threads: int = Field(160, ge=8, description="Threads per process of the backend.")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    data_dir: Path = Field(Path(".lorabel"), description="Folder of database, adapters and embedded Redis.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite in DATA_DIR.")
    redis_url: str | None = Field(None, description="Redis for the queues; default: an embedded one.")
    model_server_url: str = Field("http://127.0.0.1:9191", description="Where the backend finds the model server.")
    model_server_host: str = Field("127.0.0.1", description="Address that the model server listens on.")

    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    train_device: str | None = Field(None, description="Device of training runs, if not that of predictions.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto` takes bfloat16 where the device computes in it."
    )
    models: dict[str, str] = Field(
        default_factory=lambda: _by_name("MODEL_"),
        description="`MODEL_<FAMILY>`, e.g. `MODEL_DUAL_ENCODER`: the base model, as `hf-hub:owner/name`, "
        "`name/pretrained` or `local-dir:folder`.",
    )
    families: str = Field(
        "dual_encoder",
        description="Model families loaded at the start, comma separated; others are when they are first asked.",
    )
    templates: dict[str, str] = Field(
        default_factory=lambda: _by_name("TEMPLATE_"),
        description="`TEMPLATE_<PROBLEM>`, e.g. `TEMPLATE_IMAGE_CLASSIFICATION`: what a model reads for a label, "
        "with `{}` for the label's own text, such as `a photo of {}`.",
    )
    max_batch: int = Field(64, ge=1, description="Most rows in one forward pass.")
    max_waiting: int = Field(
        2048, ge=1, description="Rows of one priority that may wait in the model server before it says 503."
    )
    adapter_memory_mb: int = Field(512, ge=1, description="Memory for loaded adapters.")
    features_memory_mb: int = Field(
        256, ge=0, description="Memory for computed features of inputs, and of labels."
    )
    pixels_memory_mb: int = Field(256, ge=0, description="Memory for decoded inputs.")
    ray_address: str | None = Field(
        None, description="Ray cluster for `python -m model_server.ray_serve`; default: one of this machine."
    )
    replicas_min: int = Field(1, ge=1, description="Fewest replicas of the model server on Ray, one per GPU.")
    replicas_max: int = Field(1, ge=1, description="Most of them; Ray starts more when requests wait.")
    replica_requests: int = Field(
        24, ge=1, description="Requests at a time on a replica above which Ray starts more."
    )
    replica_cpus: float = Field(1, gt=0, description="CPU cores that Ray sets aside for each replica.")
    predict_timeout_s: float = Field(
        95.0, gt=0, description="Time for one /predict; Label Studio gives up after 100 s."
    )
    ahead_tasks: int = Field(
        8, ge=0, le=500, description="Open tasks predicted before an annotator opens them; 0 turns it off."
    )
    bulk_page: int = Field(250, ge=1, le=500, description="Tasks that a bulk run reads and writes back at once.")
    label_studio_requests_per_second: float = Field(
        5.0, gt=0, description="Most requests per second of a bulk run to Label Studio."
    )
    search_memory_mb: int = Field(512, ge=1, description="Memory of the backend for the vectors of search.")
    max_request_mb: int = Field(64, ge=1, description="Largest request body; larger ones get 413.")

    media_allowed_hosts: str = Field(
        "", description="Private hosts that media may come from: `host` or `host:port`, comma separated."
    )
    local_files_document_root: Path | None = Field(
        None, description="Folder under which `/data/local-files/?d=` paths may be read; none by default."
    )
    media_max_mb: int = Field(64, ge=1, description="Largest media file.")
    media_max_megapixels: int = Field(100, ge=1, description="Largest picture, or frame of a video.")
    video_frames: int = Field(8, ge=1, le=64, description="Frames that are looked at of a video, evenly spread.")
    video_clip_s: float = Field(
        0.0, ge=0, description="Longest part of a video that is looked at, from its middle; 0 for all of it."
    )
    video_pooling: Literal["mean", "max"] = Field(
        "mean", description="How the features of frames become one: `max` where one frame may tell it all."
    )
    audio_max_s: float = Field(
        30.0, ge=1, description="Longest part of a sound that is listened to, from its middle."
    )
    media_fresh_s: float = Field(
        300.0,
        ge=0,
        description="Seconds in which a file is not fetched again if its features are still in memory.",
    )
    media_timeout_s: float = Field(20.0, gt=0, description="Time for one download.")

    train_after_annotations: int = Field(10, ge=1, description="New annotations that start a training run.")
    train_after_seconds: int = Field(
        60, ge=1, description="Age of the newest annotation that starts a run with fewer new ones."
    )
    train_min_annotations: int = Field(3, ge=1, description="Fewest new annotations for that.")
    lora_rank: int = Field(8, ge=1, description="Rank of new adapters.")
    lora_towers: Literal["text", "both"] = Field(
        "text",
        description="Where encoders get new adapters: where label texts are read, or in `both` towers; see "
        "docs/decisions/0009.",
    )
    learning_rate: float = Field(5e-3, gt=0, description="AdamW's learning rate in fine-tuning.")
    train_steps: int = Field(60, ge=1, description="Most optimizer steps of one run.")
    train_batch: int = Field(128, ge=1, description="Examples per step.")
    train_patience: int = Field(30, ge=1, description="Steps without a lower loss after which a run stops.")
    train_processes: int = Field(
        1, ge=1, description="Processes of one run, with a GPU each where there are GPUs."
    )
    replay_annotations: int = Field(200, ge=0, description="Most old annotations replayed in a run.")
    held_out_percent: int = Field(20, ge=0, le=50, description="Share of tasks held out from training for good.")
    evaluate_max_tasks: int = Field(500, ge=1, description="Most held-out tasks that an evaluation takes.")
    evaluate_min_tasks: int = Field(10, ge=1, description="Held-out tasks below which they are too few to tell.")
    seed: int = Field(17, description="Seed of training.")
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        "none", description="Where accelerate reports training curves to."
    )
    sweep_seconds: float = Field(5.0, gt=0, description="How often lost jobs and due runs are looked for.")
    run_lease_seconds: float = Field(
        30.0, gt=1, description="Silence after which a running training or bulk run counts as killed."
    )

    @model_validator(mode="after")
    def check_auth(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError("BASIC_AUTH_USER and BASIC_AUTH_PASS belong together: set both or neither")
        if self.basic_auth is not None and not all(part.isascii() for part in self.basic_auth):
            raise ValueError("BASIC_AUTH_USER and BASIC_AUTH_PASS must be ASCII: Label Studio sends Latin-1")
        return self

    @model_validator(mode="after")
    def check_templates(self) -> Self:
        wrong = [name for name, template in self.templates.items() if "{}" not in template]
        if wrong:
            raise ValueError(f"TEMPLATE_{wrong[0].upper()} must have {{}} where the label's text goes")
        return self

    def template(self, problem: str) -> str:
        return self.templates.get(problem, "{}")

    @property
    def for_training(self) -> Self:
        """The same with the device of training runs as `device`."""
        return self.model_copy(update={"device": self.train_device or self.device})

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'lorabel.db'}"

    @property
    def redis(self) -> str:
        return self.redis_url or f"unix://{self.redis_socket}"

    @property
    def redis_socket(self) -> Path:
        """In DATA_DIR, or in the system's folder for such things if that path is too long for a socket."""
        path = self.data_dir.absolute() / "redis" / "redis.sock"
        if len(str(path)) <= LONGEST_SOCKET_PATH:
            return path
        name = hashlib.blake2b(str(path).encode(), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"lorabel-{name}.sock"

    @property
    def adapters_dir(self) -> Path:
        return self.data_dir.absolute() / "adapters"

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password, or None where no authentication is demanded."""
        if self.basic_auth_user is None or self.basic_auth_pass is None:
            return None
        return self.basic_auth_user, self.basic_auth_pass.get_secret_value()
