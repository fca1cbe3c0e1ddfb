"""What can be checked of the compose files without a Docker engine."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from jsonschema import Draft7Validator

from lorabel.demo.installation import LABEL_STUDIO_VERSION, PRIVATE_ADDRESSES
from lorabel.settings import Settings
from tests.deploy.compose import COMPOSE, GPU, ROOT, UnsetVariableError, interpolate, read, variables_in
from tests.docs_tables import NOT_IN_COMPOSE, SET_IN_COMPOSE, variables

SCHEMA = "builtin_schemas/vendor/compose-spec.json"
SECRET = re.compile(r"PASS|KEY|TOKEN|SECRET")
LORABEL = ("migrate", "model-server", "backend", "worker-light", "worker-train", "worker-bulk")
PASSED_ON = [name for name in variables() if name not in SET_IN_COMPOSE | NOT_IN_COMPOSE]
SERVICES = read(COMPOSE)["services"]
VARIABLES = {
    "POSTGRES_PASSWORD": "database-password",
    "REDIS_PASSWORD": "redis-password",
    "LABEL_STUDIO_USERNAME": "someone@example.com",
    "LABEL_STUDIO_PASSWORD": "label-studio-password",
}


@pytest.mark.parametrize("path", [COMPOSE, GPU], ids=lambda path: path.name)
def test_the_file_follows_the_compose_specification(path: Path) -> None:
    """The package check-jsonschema brings the schema."""
    schema = json.loads(files("check_jsonschema").joinpath(SCHEMA).read_text())
    errors = [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(read(path))]
    assert errors == []


def test_the_file_has_every_service() -> None:
    assert set(SERVICES) == {"label-studio", "postgres", "redis", *LORABEL}


def test_nothing_starts_while_a_secret_is_not_set() -> None:
    for missing in VARIABLES:
        with pytest.raises(UnsetVariableError, match=missing):
            interpolate(SERVICES, {name: value for name, value in VARIABLES.items() if name != missing})
    interpolate(SERVICES, VARIABLES)


@pytest.mark.parametrize("name", SERVICES)
def test_the_file_contains_no_secret(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        assert not SECRET.search(variable) or value.startswith("${"), f"{variable} has a value in the file"


def test_the_example_environment_names_every_variable_and_holds_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert variables_in(COMPOSE) | variables_in(GPU) == set(example)
    assert [name for name, value in example.items() if SECRET.search(name) and value] == []


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "migrate"])
def test_every_long_running_service_has_a_health_check_and_is_restarted(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_the_database_is_migrated_once_before_anything_uses_it() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("backend", "worker-light", "worker-train", "worker-bulk"):
        dependencies = SERVICES[name]["depends_on"]
        assert dependencies["migrate"] == {"condition": "service_completed_successfully"}
        assert dependencies["redis"] == {"condition": "service_healthy"}


@pytest.mark.parametrize("name", LORABEL)
def test_every_setting_is_passed_on_to_a_lorabel_service(name: str) -> None:
    """So what README.md tells people to set has an effect in .env, too."""
    environment = SERVICES[name]["environment"]
    missing = [variable for variable in PASSED_ON if environment.get(variable) != f"${{{variable}:-}}"]
    assert missing == []
    assert environment.keys() & NOT_IN_COMPOSE == set()
    assert all("${" not in environment[variable] for variable in SET_IN_COMPOSE - {"REDIS_URL"})


@pytest.mark.parametrize("name", LORABEL)
def test_a_proxy_is_not_used_between_services(name: str) -> None:
    environment = interpolate(SERVICES[name]["environment"], {**VARIABLES, "NO_PROXY": "example.org"})
    assert environment["NO_PROXY"].split(",") == ["label-studio", "model-server", "vllm", "example.org"]
    hosts = {urlsplit(environment[variable]).hostname for variable in ("LABEL_STUDIO_URL", "MODEL_SERVER_URL")}
    assert hosts == {"label-studio", "model-server"}


def test_an_empty_value_is_the_default(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    for variable in PASSED_ON:
        monkeypatch.setenv(variable, "")
    fresh = Settings()
    assert {name: getattr(fresh, name) for name in Settings.model_fields} == {
        name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()
    }


@pytest.fixture(scope="module")
def known_variables() -> set[str]:
    """Names of the variables of all settings; to make their table takes seconds."""
    return set(variables())


@pytest.mark.parametrize("name", LORABEL)
def test_every_variable_of_a_lorabel_service_is_a_setting(name: str, known_variables: set[str]) -> None:
    of_others = {"PGPASSWORD", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
    assert SERVICES[name]["environment"].keys() - of_others <= known_variables


@pytest.mark.parametrize("name", LORABEL)
def test_addresses_name_services_without_underscores(name: str) -> None:
    """werkzeug treats a host name with an underscore as a missing host."""
    environment = interpolate(SERVICES[name]["environment"], VARIABLES)
    hosts = {urlsplit(value).hostname for value in environment.values() if "://" in value}
    assert hosts == {"postgres", "redis", "label-studio", "model-server"}
    assert not any("_" in service for service in SERVICES)


def test_the_backend_has_an_alias_that_label_studio_accepts_in_a_webhook() -> None:
    """Label Studio checks a webhook's URL with Django's URLField, which requires a dot in the host name."""
    assert any("." in alias for alias in SERVICES["backend"]["networks"]["default"]["aliases"])


def test_label_studio_has_the_tested_version_and_allows_private_addresses() -> None:
    label_studio = SERVICES["label-studio"]
    assert label_studio["image"] == f"heartexlabs/label-studio:{LABEL_STUDIO_VERSION}"
    assert label_studio["environment"].items() >= dict(PRIVATE_ADDRESSES).items()


def test_redis_keeps_its_data() -> None:
    assert "--appendonly yes" in " ".join(SERVICES["redis"]["command"])
    assert _targets("redis") == {"/data": "redis"}


def test_redis_needs_a_password_which_the_services_and_the_health_check_have() -> None:
    services = interpolate(SERVICES, VARIABLES)
    assert "--requirepass redis-password" in " ".join(services["redis"]["command"])
    assert services["redis"]["environment"] == {"REDISCLI_AUTH": "redis-password"}
    for name in LORABEL:
        assert urlsplit(services[name]["environment"]["REDIS_URL"]).password == "redis-password"


def test_all_lorabel_services_share_the_volume_with_the_adapters() -> None:
    for name in LORABEL:
        assert _targets(name)["/data"] == "data"
        assert SERVICES[name]["environment"]["DATA_DIR"] == "/data"


def test_every_volume_is_declared_and_every_mounted_file_exists() -> None:
    declared = read(COMPOSE)["volumes"]
    sources = [source for name in SERVICES for source in _targets(name).values()]
    for source in sources:
        if source.startswith("./"):
            assert source == "./models" or (ROOT / source).is_file(), source
        else:
            assert source in declared


def test_only_label_studio_is_published_to_other_machines() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"label-studio": ["8080:8080"], "backend": ["127.0.0.1:9090:9090"]}


def test_the_override_gives_a_gpu_to_model_server_and_training() -> None:
    overridden: dict[str, Any] = read(GPU)["services"]
    del overridden["vllm"]
    assert set(overridden) == {"model-server", "worker-train"} <= set(SERVICES)
    for service in overridden.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        assert service["build"]["args"] == {"TORCH": "cuda"}
        assert service["image"] != SERVICES["backend"]["image"]


def test_vllm_reads_the_adapters_where_lorabel_writes_them_and_is_not_published() -> None:
    vllm = read(GPU)["services"]["vllm"]
    assert {"--enable-lora", "--max-lora-rank=${LORA_RANK:-8}"} <= set(vllm["command"])
    assert vllm["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert "data:/data:ro" in vllm["volumes"]
    assert vllm["profiles"] == ["vllm"] and "ports" not in vllm


def _targets(name: str) -> dict[str, str]:
    """Path in the container -> volume or file that is mounted there."""
    pairs = [volume.split(":") for volume in SERVICES[name].get("volumes", [])]
    return {pair[1]: pair[0] for pair in pairs}
