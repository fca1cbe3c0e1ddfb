"""Base models in folders: `lorabel fetch-model` for machines that reach no model hub, `lorabel convert-model` for
files of other programs, and a check for `up`."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from lorabel.errors import SettingsError
from lorabel.settings import Settings

if TYPE_CHECKING:
    from lorabel.families.base import Family  # imports torch

LOCAL = "local-dir:"
# What a family loads from a repository: no weights in pickle, and no copies for other programs.
PATTERNS = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", "LICENSE*", "README.md")
OTHER_FORMATS = ("onnx/*", "openvino/*", "coreml/*")
# Seconds without an answer of the hub.
HUB_TIMEOUT_S = 10.0


def fetch_model(settings: Settings, family_name: str, folder: Path, source: str | None, console: Console) -> None:
    """Write a base model into a folder, and check that the family loads it from there without a hub.

    What is in the hub's cache on this machine already is not downloaded again.

    Args:
        source: as in MODEL_<FAMILY>; None: what this setting names, or else the default of the family.

    Raises:
        SettingsError: there is no such family, the folder is not empty, or the model cannot be fetched or loaded.
    """
    family = _family(family_name)
    _check_new(folder)
    source = source or settings.models.get(family.name, family.default_source)
    console.print(f"fetching {source} for {family.name} ...", soft_wrap=True)
    origin = _downloaded(family, source)
    # A copy, since the hub's cache consists of links.
    _write(family, folder, lambda unfinished: shutil.copytree(origin, unfinished), console)


def convert_model(source: Path, folder: Path, console: Console) -> None:
    """Write a Whisper model of CTranslate2 into a folder as the family `speech` loads it, and check that it does.

    Raises:
        SettingsError: the folder is not empty, or the source is no such model.
    """
    # Imported here because they import torch.
    from lorabel.families.speech import Speech
    from lorabel.families.transcription.conversion import convert

    _check_new(folder)
    console.print(f"converting {source} ...", soft_wrap=True)
    _write(Speech, folder, lambda unfinished: convert(source, unfinished), console)


def _check_new(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{str(folder)!r} is not empty; expected a new folder for the model")


def _write(family: "type[Family]", folder: Path, write: Callable[[Path], object], console: Console) -> None:
    """Write a model into a folder, which is there only if the family loads it, and say how to use it.

    Args:
        write: writes the model into the folder that it is given.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as unfinished:
        written = Path(unfinished) / "model"
        write(written)
        console.print("loading the model from its folder, without a hub ...")
        _check(family, written)
        written.replace(folder)
    console.print(f"the model is in {folder.absolute()}; copy the folder if need be, and set", soft_wrap=True)
    console.print(f"MODEL_{family.name.upper()}=local-dir:{folder.absolute()}", soft_wrap=True)


def check_model_folders(settings: Settings) -> None:
    """Check that the base models which are loaded at the start have their folders, if they are to be in folders.

    The model server would say it, too, but only after it has imported torch, which takes up to a minute.

    Raises:
        SettingsError: a folder is missing, or is a file.
    """
    for name in settings.family_names:
        source = settings.models.get(name, "")
        folder = Path(source.removeprefix(LOCAL))
        if source.startswith(LOCAL) and not folder.is_dir():
            variable, fault = f"MODEL_{name.upper()}", "is a file" if folder.exists() else "does not exist"
            raise SettingsError(
                f"{variable}={source!r} cannot be loaded: {str(folder.absolute())!r} {fault}; set {variable} to "
                f"the folder of a base model, which `lorabel fetch-model {name} FOLDER` writes"
            )


def _family(name: str) -> "type[Family]":
    # Imported here because it imports torch.
    from lorabel.families.loading import base_model_types

    families = {family.name: family for family in base_model_types()}
    if name not in families:
        raise SettingsError(f"{name!r} is no model family; known: {', '.join(sorted(families))}")
    return families[name]


def _downloaded(family: "type[Family]", source: str) -> Path:
    """The folder of the model's files, in the hub's cache or where `local-dir:` says."""
    if source.startswith(LOCAL):
        origin = Path(source.removeprefix(LOCAL))
        if not origin.is_dir():
            raise SettingsError(f"there is no folder {str(origin)!r}")
        return origin
    # Imported here because it takes a second.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                family.hub_id(source),
                allow_patterns=list(PATTERNS),
                ignore_patterns=list(OTHER_FORMATS),
                etag_timeout=HUB_TIMEOUT_S,
            )
        )
    except LocalEntryNotFoundError as error:
        raise SettingsError(
            f"{source} is not on this machine, and the model hub cannot be reached ({_reason(error)}); run this "
            "command on a machine that reaches the hub, and copy the folder. HF_ENDPOINT names another hub, "
            "HTTPS_PROXY a proxy"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise SettingsError(f"the model hub does not give {source}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].removeprefix("Got: ")


def _check(family: "type[Family]", folder: Path) -> None:
    """Load the model in a process of its own: huggingface_hub decides at its import whether there is a hub."""
    with tempfile.TemporaryDirectory() as empty_cache:
        variables = {
            f"MODEL_{family.name.upper()}": f"local-dir:{folder}",
            "DEVICE": "cpu",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": empty_cache,
        }
        ended = subprocess.run(
            [sys.executable, "-m", "lorabel.families.loading", family.name],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
    if ended.returncode != 0:
        last_line = (ended.stderr.strip().splitlines() or [f"exit status {ended.returncode}"])[-1]
        raise SettingsError(f"the files that were fetched are not enough to load the model: {last_line}")
