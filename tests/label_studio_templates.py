"""The label configs that Label Studio offers as templates, as of LABEL_STUDIO_VERSION.

Label Studio itself is not installed where the tests of the fast suite run, so its templates are kept in a file;
a test in tests/e2e compares it with the installed Label Studio. To write the file anew:

    python -m tests.label_studio_templates
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from label_studio_sdk.label_interface import LabelInterface

FILE = Path(__file__).parent / "data" / "label_studio_templates.json"

# The SDK has no example for a List.
LIST = [{"id": 1, "title": "The first", "body": "..."}, {"id": 2, "title": "The second", "body": "..."}]


@dataclass(frozen=True)
class Template:
    """A template: `config` is the label config as its author wrote it."""

    group: str
    title: str
    config: str

    def sample_data(self) -> dict[str, Any]:
        """A task's data: the SDK's example for each object tag, and the author's from a comment of the config."""
        interface = LabelInterface(self.config)
        examples = interface.generate_sample_task()
        shown = {key: LIST if example is None else example for key, example in examples.items()}
        return {**shown, **(interface._sample_config_task or {})}


def read() -> list[Template]:
    """The templates of the file."""
    return [Template(**fields) for fields in json.loads(FILE.read_text())]


def installed(package: Path) -> list[Template]:
    """The templates of an installed Label Studio.

    Args:
        package: folder of the Python package `label_studio`.
    """
    paths = (package / "annotation_templates").glob("**/*.yml")
    files = [yaml.safe_load(path.read_text()) for path in paths]
    templates = [Template(file["group"], file["title"], file["config"]) for file in files]
    return sorted(templates, key=lambda template: (template.group, template.title))


def installed_package() -> Path:
    """Install Label Studio if need be, and return the folder of its package."""
    from tests.e2e.label_studio_server import install

    (package,) = install().folder.glob("environment/lib/*/site-packages/label_studio")
    return package


if __name__ == "__main__":
    templates = [asdict(template) for template in installed(installed_package())]
    FILE.write_text(json.dumps(templates, indent=1, ensure_ascii=False) + "\n")
