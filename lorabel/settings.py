"""Every environment variable, typed and documented. Nothing else reads the environment.

Those of one subject are beside it, such as `lorabel/media_settings.py` and `lorabel/privacy_settings.py`.

The README's table of settings is made from this file (`tests/test_docs.py` compares them).
"""

import os
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lorabel.adapter_kinds import refused_kind
from lorabel.explanation_settings import ExplanationSettings
from lorabel.generator_settings import GeneratorSettings
from lorabel.lora_settings import LoraSettings
from lorabel.media_settings import MediaSettings
from lorabel.privacy_settings import PrivacySettings
from lorabel.private_folders import is_private
from lorabel.ray_settings import RaySettings
from lorabel.tls_settings import TlsSettings
from lorabel.track_settings import TrackSettings

LONGEST_SOCKET_PATH = 100
REDIS_SOCKET = "redis.sock"


def _by_name(prefix: str) -> dict[str, str]:
    """The variables that begin with a prefix, by the rest of their names in lower case.

    A sample: `MODEL_DUAL_ENCODER=...` becomes `{"dual_encoder": ...}`. The rest may be the name of any family or
    problem, also one of another package.
    """
    return {
        name.removeprefix(prefix).lower(): value
        for name, value in os.environ.items()
        if name.startswith(prefix) and not name.startswith("MODEL_SERVER_") and value
    }


def certificate_files() -> dict[str, str]:
    """Files or folders of certificate authorities, by the variable that names them."""
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
    return {name: os.environ[name] for name in names if os.environ.get(name)}


class Settings(
    PrivacySettings,
    TlsSettings,
    MediaSettings,
    RaySettings,
    TrackSettings,
    GeneratorSettings,
    LoraSettings,
    ExplanationSettings,
):
    """The settings of all processes. The field `host` is the environment variable HOST, and so on."""

    model_config = SettingsConfigDict(
        env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    label_studio_url: str | None = Field(None, description="Address of Label Studio, as seen from this machine.")
    label_studio_api_key: SecretStr | None = Field(
        None,
        description="Personal access token (or legacy token) of a Label Studio user who sees the projects.",
    )
    label_studio_port: int = Field(8080, description="Port of the Label Studio that `lorabel demo` starts.")
    basic_auth_user: str | None = Field(None, description="User name that every endpoint requires.")
    basic_auth_pass: SecretStr | None = Field(None, description="Password that every endpoint requires.")

    webhook_secret_required: bool = Field(
        False, description="Refuse events of projects whose webhook lacks the secret that `lorabel connect` sets."
    )

    host: str = Field("127.0.0.1", description="Address that the backend listens on.")
    port: int = Field(9090, description="Port that the backend listens on.")
    workers: int = Field(1, ge=1, description="Processes of the backend.")
    threads: int = Field(160, ge=8, description="Threads per process of the backend.")
    max_connections: int = Field(
        2000, ge=8, description="Open connections per process; a new one closes the one that has waited longest."
    )
    request_timeout_s: float = Field(
        30.0,
        gt=0,
        description="Seconds for a request to arrive, or an answer to be taken, and one more for each 64 kB.",
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")

    data_dir: Path = Field(
        Path(".lorabel"),
        description="Folder of database, adapters, logs and embedded Redis; made private (mode 0700).",
    )
    database_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite in DATA_DIR.")
    redis_url: str | None = Field(None, description="URL of the Redis for the queues; default: an embedded Redis.")
    model_server_url: str = Field(
        "http://127.0.0.1:9191",
        description="Address of the model server, as seen from the backend and the workers.",
    )
    model_server_host: str = Field("127.0.0.1", description="Address that the model server listens on.")

    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    train_device: str | None = Field(None, description="Device of training runs; default: DEVICE.")
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="`auto` is bfloat16 if the device supports it, else float32. `int8` serves encoders and "
        "detectors with weights of 8 bits, for CPUs without bfloat16.",
    )
    models: dict[str, str] = Field(
        default_factory=lambda: _by_name("MODEL_"),
        description="`MODEL_<FAMILY>`, e.g. `MODEL_DUAL_ENCODER`: the base model, as `hf-hub:owner/name`, "
        "`name/pretrained` or `local-dir:folder`.",
    )
    families: str = Field(
        "dual_encoder",
        description="Model families loaded at the start, comma separated; others load at their first request.",
    )
    templates: dict[str, str] = Field(
        default_factory=lambda: _by_name("TEMPLATE_"),
        description="`TEMPLATE_<PROBLEM>`, e.g. `TEMPLATE_IMAGE_CLASSIFICATION`: text that a model reads for a "
        "label, where `{}` is the label's own text, such as `a photo of {}`.",
    )
    max_batch: int = Field(64, ge=1, description="Most rows in one forward pass.")
    max_waiting: int = Field(
        2048,
        ge=1,
        description="Rows of one priority that may wait in the model server; more are refused with 503, and with "
        "413 if one request has more.",
    )
    adapter_memory_mb: int = Field(512, ge=1, description="Memory for loaded adapters, in MB.")
    features_memory_mb: int = Field(
        256, ge=0, description="Memory for computed features of inputs and of labels, in MB."
    )
    embeddings_memory_mb: int = Field(
        512,
        ge=0,
        description="MB for embeddings of pictures that clicks are answered from; SAM 2: 8 to 17 a picture.",
    )
    polygon_tolerance_px: float = Field(
        1.0, ge=0, description="Pixels that a polygon may be off its mask's outline."
    )
    pixels_memory_mb: int = Field(256, ge=0, description="Memory for decoded inputs, in MB.")
    predict_timeout_s: float = Field(
        95.0, gt=0, description="Seconds for one /predict request; Label Studio gives up after 100 s."
    )
    ahead_tasks: int = Field(
        8, ge=0, le=500, description="Tasks that are predicted before an annotator opens them; 0 turns this off."
    )
    bulk_page: int = Field(250, ge=1, le=500, description="Tasks that a bulk run reads and writes in one request.")
    order_renew_after: int = Field(
        10,
        ge=0,
        description="New annotations after which an order by `auto` is renewed. At 0 it never is, and all open "
        "tasks get a position, not only the first.",
    )
    label_studio_requests_per_second: float = Field(
        5.0, gt=0, description="Most requests per second of a bulk run to Label Studio."
    )
    search_memory_mb: int = Field(512, ge=1, description="Memory of the backend for the vectors of search, in MB.")
    max_request_mb: int = Field(
        64, ge=1, description="Largest request body in MB; larger ones are refused with 413."
    )

    detector_threshold: float = Field(
        0.2, ge=0, le=1, description="Smallest probability of a box; a project's own is in its extra params."
    )
    detector_max_boxes: int = Field(100, ge=1, le=1000, description="Most boxes in a picture: the likeliest.")
    detector_overlap: float = Field(
        0.5, gt=0, le=1, description="IoU from which only the likeliest box of a label is kept; 1 keeps all."
    )
    detector_overlap_of_labels: float = Field(
        1.0,
        gt=0,
        le=1,
        description="IoU from which only the likeliest box is kept, whatever the labels; 1 keeps all.",
    )
    head_max_tasks: int = Field(
        2000,
        ge=1,
        description="Most annotated tasks that a fitted head learns from: the newest ones, of each class alike.",
    )
    train_after_annotations: int = Field(10, ge=1, description="New annotations that start a training run.")
    train_after_seconds: int = Field(
        60,
        ge=1,
        description="Seconds since the newest annotation after which a run starts with fewer new annotations.",
    )
    train_min_annotations: int = Field(
        3, ge=1, description="Fewest new annotations for a run that TRAIN_AFTER_SECONDS starts."
    )
    train_max_annotations: int = Field(
        1000,
        ge=1,
        description="Most new annotations that one run reads, the oldest first; the next reads the others.",
    )
    train_memory_mb: int = Field(
        1024, ge=1, description="Most memory for the examples of one run, in MB; the next run reads the others."
    )
    train_read_s: float = Field(
        600.0, gt=0, description="Most seconds of one run for reading media; the next run reads the others."
    )
    compare_fully_hours: float = Field(
        24.0,
        ge=0,
        description="Hours between two comparisons of all annotations with Label Studio's; in between, a run "
        "compares those of tasks that have changed. 0 compares all before every run.",
    )
    lora_kinds: dict[str, str] = Field(
        default_factory=lambda: _by_name("LORA_KIND_"),
        description="`LORA_KIND_<FAMILY>`, e.g. `LORA_KIND_DETECTOR`: LORA_KIND of one family's adapters.",
    )
    learning_rate: float = Field(5e-3, gt=0, description="AdamW's learning rate in fine-tuning.")
    train_steps: int = Field(
        60, ge=1, description="Most optimizer steps of one training; beside a fitted head 40 for each 160 tasks."
    )
    train_batch: int = Field(128, ge=1, description="Examples per step; beside a fitted head 32 at most.")
    train_patience: int = Field(30, ge=1, description="Steps without a lower loss after which a run stops.")
    train_processes: int = Field(
        1, ge=1, description="Processes of one run, with a GPU each if there are GPUs. Beside a fitted head: one."
    )
    replay_annotations: int = Field(200, ge=0, description="Most old annotations that a run trains on again.")
    held_out_percent: int = Field(
        20,
        ge=0,
        le=50,
        description="Percentage of tasks that are held out from training runs for ever, for evaluation. Fitted "
        "heads learn from all tasks, and so do runs beside them, which are cross-validated.",
    )
    evaluate_max_tasks: int = Field(500, ge=1, description="Most held-out tasks in an evaluation.")
    evaluate_min_tasks: int = Field(
        10,
        ge=1,
        description="Fewest held-out tasks in an evaluation that can decide which version is better. Beside a "
        "fitted head: fewest new tasks that can, where an adapter is live.",
    )
    seed: int = Field(17, description="Seed of training.")
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        "none",
        description="Tracker that gets training runs; TensorBoard's files are in DATA_DIR/tracking.",
    )
    sweep_seconds: float = Field(5.0, gt=0, description="Seconds between sweeps for lost jobs and due runs.")
    run_lease_seconds: float = Field(
        30.0,
        gt=1,
        description="Seconds without a sign of life after which a training or bulk run counts as killed.",
    )

    event_retention_days: int = Field(
        30, ge=0, description="Days after which events that are done are removed; 0 keeps them for ever."
    )
    failed_event_retention_days: int = Field(
        180, ge=0, description="Days after which failed events are removed; 0 keeps them for ever."
    )
    run_retention_days: int = Field(
        90,
        ge=0,
        description="Days after which training and bulk runs that have ended are removed, except the newest 20 of "
        "each project; 0 keeps them for ever.",
    )
    rejected_adapters_kept: int = Field(
        5, ge=0, description="Rejected versions per project that keep their adapters, whatever their age."
    )
    rejected_adapter_retention_days: int = Field(
        14,
        ge=0,
        description="Days after which the adapters of other rejected versions are removed; 0 keeps them for ever.",
    )
    log_max_mb: int = Field(
        100, ge=1, description="Size of a file in DATA_DIR/logs at which it becomes `<name>.log.1`, in MB."
    )
    leftover_retention_days: int = Field(
        7,
        ge=0,
        description="Days after which folders in DATA_DIR that nothing names any more are removed; 0 keeps them "
        "for ever.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment. Other sources, which are not used, would take half the time."""
        return init_settings, env_settings

    @model_validator(mode="after")
    def check_basic_auth(self) -> Self:
        if (self.basic_auth_user is None) != (self.basic_auth_pass is None):
            raise ValueError("BASIC_AUTH_USER and BASIC_AUTH_PASS belong together: set both or neither")
        if self.basic_auth is not None and not all(part.isascii() for part in self.basic_auth):
            raise ValueError("BASIC_AUTH_USER and BASIC_AUTH_PASS must be ASCII: Label Studio sends Latin-1")
        return self

    @model_validator(mode="after")
    def check_model_server_url(self) -> Self:
        self.check_model_server_scheme(self.model_server_url)
        return self

    @model_validator(mode="after")
    def check_templates(self) -> Self:
        problems = [name for name, template in self.templates.items() if "{}" not in template]
        if problems:
            raise ValueError(f"TEMPLATE_{problems[0].upper()} must have {{}} where the label's text goes")
        return self

    @model_validator(mode="after")
    def check_lora_kinds(self) -> Self:
        fault = refused_kind(
            self.lora_kind,
            self.lora_kinds,
            has_server=bool(self.generator_url),
            is_in_4_bits=self.generator_4bit,
        )
        if fault is not None:
            raise ValueError(fault)
        return self

    def lora_kind_of(self, family: str) -> str:
        """The kind of a family's new adapters."""
        return self.lora_kinds.get(family, self.lora_kind)

    def template(self, problem: str) -> str:
        """The text around a label's text for a problem, e.g. `a photo of {}`; `{}` if none is set."""
        return self.templates.get(problem, "{}")

    @property
    def family_names(self) -> list[str]:
        """The names in FAMILIES, in its order."""
        return [name.strip() for name in self.families.split(",") if name.strip()]

    @property
    def for_training(self) -> Self:
        """These settings with the device of training runs as `device`."""
        return self.model_copy(update={"device": self.train_device or self.device})

    @property
    def serves_int8(self) -> bool:
        """Whether encoders are served with weights of 8 bits."""
        return self.precision == "int8"

    @property
    def model_server_port(self) -> int:
        """The port of MODEL_SERVER_URL, on which the model server listens."""
        parts = urlsplit(self.model_server_url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'lorabel.db'}"

    @property
    def redis(self) -> str:
        """URL of the Redis for the queues, the embedded one by default."""
        return self.redis_url or f"unix://{self.redis_socket}"

    @property
    def redis_socket(self) -> Path:
        """Socket of the embedded Redis: in DATA_DIR, or if its path is too long, where `redis_socket_link` points.

        If there is no link yet, or if it points to a folder of another user, this is the path that is too long, at
        which no program can listen.
        """
        link = self.redis_socket_link
        if link is not None and link.is_symlink() and is_private(link.readlink()):
            return link.readlink() / REDIS_SOCKET
        return self._redis_folder / REDIS_SOCKET

    @property
    def redis_socket_link(self) -> Path | None:
        """Link to the private folder of the socket; None if the socket is in DATA_DIR."""
        is_short = len(os.fsencode(self._redis_folder / REDIS_SOCKET)) <= LONGEST_SOCKET_PATH
        return None if is_short else self.data_dir.absolute() / "redis-socket"

    @property
    def _redis_folder(self) -> Path:
        return self.data_dir.absolute() / "redis"

    @property
    def adapters_dir(self) -> Path:
        """Folder of the adapters of all projects."""
        return self.data_dir.absolute() / "adapters"

    @property
    def basic_auth(self) -> tuple[str, str] | None:
        """User and password; None if requests need no authentication."""
        if self.basic_auth_user is None or self.basic_auth_pass is None:
            return None
        return self.basic_auth_user, self.basic_auth_pass.get_secret_value()
