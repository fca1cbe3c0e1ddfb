"""Adapters: many projects in one batch, a cold one, and how many are held.

The forward passes run in this process, as in the model server, with its adapter bank; and with PEFT's own mixed
batches (`adapter_names=`, https://huggingface.co/docs/peft/main/en/developer_guides/lora), whose layers torch's
threads share. The cold adapter and the memory are measured in a running model server.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import torch
from peft import PeftModel
from torch import Tensor

from benchmarks import adapter_folders, servers
from benchmarks.models import vit_b_32
from benchmarks.photos import Photos, data_url
from benchmarks.plan import Plan
from benchmarks.question import LABELS
from benchmarks.rows import Goal, Row, ratio_of, row_of
from lorabel.contracts import Content, LabelsInput, MediaRef, Modality
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.families.base import Family
from lorabel.families.core_threads import with_adapters
from lorabel.families.dual_encoder import DualEncoder
from lorabel.families.loading import load_family
from lorabel.inference.messages import PredictRow
from lorabel.inference.model_client import ModelClient
from lorabel.settings import Settings
from model_server.adapters import AdapterBank
from tests.servers import free_port

RANK = 8
SMALL_RANK = 2
MEGABYTE = 2**20
PROJECTS = (1, 8, 64, 256)
QUICK_PROJECTS = (1, 64)
# PEFT walks through all modules for each adapter that it loads, so loading 64 adapters takes half a minute.
PEFT_PROJECTS = (1, 8, 64)
PEFT_LOADING = MappingProxyType({"autocast_adapter_dtype": False, "low_cpu_mem_usage": True})
GOAL_PROJECTS = 64
OF_BASE = Goal(">=", 0.85)
COLD_MS = Goal("<=", 50.0)
COLD_ADAPTERS, QUICK_COLD_ADAPTERS = 20, 5
WARM_REQUESTS = 3
FIRST_SMALL = 1001
LEAST_ROUNDS = 3
TIMEOUT_S = 120.0


def measure(plan: Plan) -> list[Row]:
    counts = QUICK_PROJECTS if plan.is_quick else PROJECTS
    cold = QUICK_COLD_ADAPTERS if plan.is_quick else COLD_ADAPTERS
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        settings = plan.settings.model_copy(
            update={
                "data_dir": Path(folder),
                "models": {"dual_encoder": vit_b_32(plan.folder)},
                "model_server_url": f"http://127.0.0.1:{free_port()}",
            }
        )
        folders = AdapterFolders(settings.adapters_dir)
        family = load_family(DualEncoder, settings)
        large = adapter_folders.write(family.module, folders, 1, max(counts), RANK)
        small = adapter_folders.write(family.module, folders, FIRST_SMALL, cold, SMALL_RANK)
        rows = _mixed_batches(family, folders, large, counts, plan)
        del family
        return rows + _in_a_model_server(settings, folders, large, small)


def _mixed_batches(
    family: Family, folders: AdapterFolders, names: Sequence[str], counts: Sequence[int], plan: Plan
) -> list[Row]:
    """Rows a second of a batch of several projects' rows.

    Each round measures every contestant once, so that other work on the machine affects all of them alike.
    """
    batch = plan.settings.max_batch
    pixels = torch.randn(batch, 3, 224, 224).to(family.device, family.dtype)
    times: dict[str, list[float]] = {}
    until = time.monotonic() + plan.seconds * len(counts)
    bank = AdapterBank(family, folders, memory_bytes=sys.maxsize)
    for name in names:
        bank.load(name)
    contestants = {"base model only": _with_bank(family, bank, pixels, [None])}
    contestants |= {_title(count): _with_bank(family, bank, pixels, names[:count]) for count in counts}
    while len(times.get(_title(GOAL_PROJECTS), ())) < LEAST_ROUNDS or time.monotonic() < until:
        for name, forward in contestants.items():
            times.setdefault(name, []).append(_seconds(forward, family.device))
    # PEFT changes the module for good, so it comes last.
    peft = {} if plan.is_quick else _with_peft(family, folders, names[: max(PEFT_PROJECTS)], pixels)
    for _ in range(LEAST_ROUNDS):
        for name, forward in peft.items():
            times.setdefault(name, []).append(_seconds(forward, family.device))
    # The first round warms up.
    rates = {name: [batch / seconds for seconds in of_rounds[1:]] for name, of_rounds in times.items()}
    base = rates["base model only"]
    return [
        *(row_of(f"batch of {batch}, {name}", samples, "rows/s") for name, samples in rates.items()),
        *(
            ratio_of(f"{_title(n)}, of base", rates[_title(n)], base, OF_BASE if n == GOAL_PROJECTS else None)
            for n in counts
        ),
    ]


def _title(count: int) -> str:
    return f"{count} project{'s' if count > 1 else ''} mixed"


def _with_bank(
    family: Family, bank: AdapterBank, pixels: Tensor, names: Sequence[str | None]
) -> Callable[[], Tensor]:
    """A forward pass whose rows have the adapters in turn. The next pass goes on where the last one stopped."""
    next_names = cycle(names)
    encode: Callable[[Tensor], Tensor] = family.module.encode_image  # type: ignore[assignment]

    def forward() -> Tensor:
        return with_adapters(encode, pixels, list(islice(next_names, len(pixels))), bank, family.device)

    return forward


def _with_peft(
    family: Family, folders: AdapterFolders, names: Sequence[str], pixels: Tensor
) -> dict[str, Callable[[], Tensor]]:
    model = PeftModel.from_pretrained(family.module, folders.path(names[0]), "p0", **PEFT_LOADING)
    for index, name in enumerate(names[1:], 1):
        model.load_adapter(folders.path(name), f"p{index}", **PEFT_LOADING)
    model.to(family.dtype).eval()

    def forward_of(count: int) -> Callable[[], Tensor]:
        row_adapters = list(islice(cycle(f"p{index}" for index in range(count)), len(pixels)))

        def forward() -> Tensor:
            output = model(image=pixels, adapter_names=row_adapters)
            features: Tensor = output["image_features"] if isinstance(output, dict) else output[0]
            return features

        return forward

    return {f"{_title(count)} by PEFT": forward_of(count) for count in PEFT_PROJECTS}


@torch.inference_mode()
def _seconds(forward: Callable[[], Tensor], device: torch.device) -> float:
    started = time.perf_counter()
    forward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _in_a_model_server(
    settings: Settings, folders: AdapterFolders, large: Sequence[str], small: Sequence[str]
) -> list[Row]:
    variables = {
        "MODEL_SERVER_URL": settings.model_server_url,
        "DATA_DIR": str(settings.data_dir),
        "DEVICE": settings.device,
        "PRECISION": settings.precision,
        "MODEL_DUAL_ENCODER": settings.models["dual_encoder"],
        "LOG_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "model_server"]
    with servers.process(command, f"{settings.model_server_url}/livez", variables):
        client = ModelClient(settings)
        caller = _Caller(client)
        caller.request(None)
        added_ms = [caller.cold_ms(name) for name in small]
        client.preload(large, timeout_s=TIMEOUT_S)
        models = client.models()
        client.close()
    each_mb = models.adapter_bytes / len(models.adapters) / MEGABYTE
    size = (folders.path(small[0]) / "adapter_model.safetensors").stat().st_size
    note = f"{settings.adapter_memory_mb} MB, {len(large) + len(small)} asked for"
    return [
        row_of(f"a cold adapter of {size / 1e6:.1f} MB adds to its first request", added_ms, "ms", COLD_MS),
        Row("memory of each of the adapters held, rank 8", each_mb, "MB", note=models.precision),
        Row("adapters held in ADAPTER_MEMORY_MB", len(models.adapters), "", note=note),
    ]


class _Caller:
    """Requests one row at a time, each of another photograph."""

    def __init__(self, client: ModelClient) -> None:
        self._client, self._photos, self._number = client, Photos(), 0

    def cold_ms(self, adapter: str) -> float:
        """How much longer the first request with an adapter takes than the requests after it."""
        first_s = self.request(adapter)
        return (first_s - statistics.median(self.request(adapter) for _ in range(WARM_REQUESTS))) * 1000

    def request(self, adapter: str | None) -> float:
        """Returns the seconds that the request took."""
        photo = Content(modality=Modality.IMAGE, media=MediaRef(url=data_url(self._photos[self._number])))
        question = LabelsInput(contents=(photo,), labels=tuple((label,) for label in LABELS))
        self._number += 1
        row = PredictRow(kind=question.kind, input=question.model_dump(mode="json"), adapter=adapter)
        started = time.perf_counter()
        (answer,) = self._client.predict([row], TIMEOUT_S, project=1)
        if answer.error is not None:
            raise RuntimeError(f"the model server failed: {answer.error.reason}")
        return time.perf_counter() - started
