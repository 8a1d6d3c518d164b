"""What is shipped beside the code: the compose file, the images, the settings' example, the health probe."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import itertools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from runtime.health_probe import main as probe
from runtime.rpc import OVERALL, GrpcServer

ROOT = Path(__file__).resolve().parents[2]
LANES = {"lane-anisora": "lane_anisora", "lane-phr00t": "lane_phr00t", "degraded-pool": "degraded_pool"}
SETTINGS = {
    "admission.config": "AdmissionSettings",
    "http_bridge.config": "BridgeSettings",
    "lane_anisora.config": "Settings",
    "lane_phr00t.config": "Settings",
    "degraded_pool.config": "Settings",
}
# Read by `warmlane up` (it makes one when there is none) and handed to the bridge.
UP_VARIABLES = {"WARMLANE_API_KEY", "WARMLANE_ADMIN_KEY"}


@pytest.fixture(scope="module")
def services() -> Mapping[str, Any]:
    """The services of the compose file."""
    content: Mapping[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return content


def _variables_of(text: str) -> set[str]:
    return set(re.findall(r"^#(WARMLANE_[A-Z0-9_]+)=", text, flags=re.MULTILINE))


def _documented() -> tuple[set[str], set[str]]:
    """Variables of the processes, and those of docker-compose."""
    own, compose = (ROOT / ".env.example").read_text(encoding="utf-8").split("# --- docker-compose only ---")
    return _variables_of(own), _variables_of(compose)


def _of_services() -> Mapping[str, type[BaseSettings]]:
    """The settings of each service of the compose file."""
    admission, bridge, *lanes = _settings()
    own = dict(zip(LANES, lanes, strict=True))
    return {"admission": admission, "http-bridge": bridge, **own, **{f"{name}-tiny": one for name, one in own.items()}}


def _settings() -> list[type[BaseSettings]]:
    return [getattr(importlib.import_module(module), name) for module, name in SETTINGS.items()]


def test_every_setting_is_documented_when_the_classes_are_compared() -> None:
    read = {f"WARMLANE_{field.upper()}" for settings in _settings() for field in settings.model_fields}
    assert _documented()[0] == read | UP_VARIABLES


def test_nothing_is_set_when_the_example_is_copied_as_it_is() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_every_line_has_a_comment_when_the_example_is_read() -> None:
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    bare = [line for before, line in itertools.pairwise(lines) if line.startswith("#WARMLANE_") and not before]
    assert bare == []


def test_values_of_the_example_are_the_defaults_when_they_are_given() -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    given = dict(re.findall(r"^#WARMLANE_([A-Z0-9_]+)=(.+)$", text, flags=re.MULTILINE))
    wrong = {
        name: value
        for settings in _settings()
        for name, field in settings.model_fields.items()
        if (value := given.get(name.upper())) is not None and _spelled(field.default) != _spelled(value)
    }
    assert wrong == {}


def _spelled(value: object) -> str:
    """One spelling for a default and for the text that means it."""
    if value == ():
        return "[]"
    text = str(value).lower()
    return text.removesuffix(".0")


def test_only_documented_variables_are_used_when_the_compose_file_is_read(services: Mapping[str, Any]) -> None:
    own, compose = _documented()
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(WARMLANE_[A-Z0-9_]+)", text)) <= own | compose
    given = {name for service in services.values() for name in service.get("environment", {})}
    assert {name for name in given if not name.startswith("AWS_")} <= own


def test_every_setting_of_the_example_reaches_its_process_when_it_is_set_for_docker(services: Mapping[str, Any]) -> None:
    # A private gallery that was asked for in .env was a shared one: the file passed some settings only.
    left_out = {
        f"{service}: {name}"
        for service, settings in _of_services().items()
        for name in {f"WARMLANE_{field.upper()}" for field in settings.model_fields} - set(services[service]["environment"])
        # Files of the host are not in a container, each lane has its name, and a key is asked for.
        if not re.search(r"_TLS_|_LANE_ID$|_ALLOW_UNAUTHENTICATED$", name)
    }
    assert left_out == set()


def test_store_and_collector_are_those_of_the_example_in_every_process_when_they_are_set_for_docker(services: Mapping[str, Any]) -> None:
    text = (ROOT / "docs" / "howto" / "object-store.md").read_text(encoding="utf-8")
    shared = set(re.findall(r"`(AWS_[A-Z_]+)[`=]", text)) | {"WARMLANE_OTLP_ENDPOINT", "WARMLANE_OTLP_HEADERS"}
    assert len(shared) > 10
    for name in _of_services():
        environment = services[name]["environment"]
        # Unset where nobody set them: an empty AWS_ACCESS_KEY_ID would be taken for a key.
        assert {one: environment[one] for one in shared} == dict.fromkeys(shared), name
        assert environment["WARMLANE_OBJECT_STORE_URL"] == "${WARMLANE_OBJECT_STORE_URL:-file:///data/objects}"


def test_each_process_is_a_service_when_the_compose_file_is_read(services: Mapping[str, Any]) -> None:
    tiny = {f"{name}-tiny" for name in LANES}
    assert set(services) == {"pod", "admission", "http-bridge", *LANES, *tiny}


def test_each_command_is_a_module_when_a_service_starts(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        if name != "pod":
            interpreter, option, module = service["command"]
            assert (interpreter, option) == ("python", "-m")
            assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_every_service_is_watched_when_it_runs(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"
        assert "stop_grace_period" in service
        if name != "pod":
            assert service["healthcheck"]["test"][1:4] == ["python", "-m", "runtime.health_probe"]


def test_probe_asks_where_the_process_listens_when_it_is_a_grpc_server(services: Mapping[str, Any]) -> None:
    for name, service in services.items():
        environment = service.get("environment", {})
        bind = environment.get("WARMLANE_ADMISSION_BIND") or environment.get("WARMLANE_INSPECTION_BIND")
        assert bind is None or service["healthcheck"]["test"][4] == bind, name


def test_processes_that_run_together_have_metrics_ports_of_their_own_when_they_share_a_network(services: Mapping[str, Any]) -> None:
    for profile in ("tiny", "gpu"):
        together = [one for name, one in services.items() if name != "pod" and one.get("profiles", [profile]) == [profile]]
        binds = [one["environment"]["WARMLANE_METRICS_BIND"] for one in together]
        assert sorted(binds) == [f"127.0.0.1:{port}" for port in range(9100, 9105)]


def test_default_ports_of_metrics_are_those_of_the_design_when_nothing_is_set() -> None:
    assert [settings.model_fields["metrics_bind"].default for settings in _settings()] == [
        f"127.0.0.1:{port}" for port in (9101, 9100, 9102, 9103, 9104)
    ]


def test_only_the_pod_has_a_network_when_grpc_is_loopback_only(services: Mapping[str, Any]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["pod"]
    assert {service.get("network_mode") for name, service in services.items() if name != "pod"} == {"service:pod"}


def test_each_gpu_lane_reserves_one_device_of_its_own_when_the_profile_is_gpu(services: Mapping[str, Any]) -> None:
    reserved = []
    for name in LANES:
        assert services[name]["profiles"] == ["gpu"]
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]
        reserved += device["device_ids"]
    assert len(set(reserved)) == len(LANES)


def test_no_device_is_reserved_when_the_profile_is_tiny(services: Mapping[str, Any]) -> None:
    for name, module in LANES.items():
        service = services[f"{name}-tiny"]
        assert (service["profiles"], service["command"][2]) == (["tiny"], module)
        assert "deploy" not in service
        assert service["environment"]["WARMLANE_PROFILE"] == "tiny"


def test_every_image_has_its_target_and_extra_when_it_is_built(services: Mapping[str, Any]) -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    targets = {service["build"]["target"] for service in services.values() if "build" in service}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for target in targets:
        assert re.search(rf"^FROM base AS {target}\n", dockerfile, flags=re.MULTILINE)
        assert f'".[{target}]"' in dockerfile
        assert target in extras


def test_nothing_runs_as_root_when_an_image_starts() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    final_stages = dockerfile.split("FROM base AS ")[1:]
    assert len(final_stages) == 3
    assert all("\nUSER warmlane\n" in stage for stage in final_stages)


def test_what_the_package_needs_is_sent_when_an_image_is_built() -> None:
    sent = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {package.removesuffix("/warmlane") for package in packages} | {"pyproject.toml", "constraints.txt", "README.md"} == sent


@pytest.mark.parametrize(("serving", "exit_code"), [(True, 0), (False, 1)])
async def test_probe_tells_what_the_server_says_when_it_answers(serving: bool, exit_code: int) -> None:
    server = GrpcServer("127.0.0.1:0", {})
    await server.start()
    try:
        await server.set_serving(OVERALL, serving)
        assert await asyncio.to_thread(probe, [f"127.0.0.1:{server.port}"]) == exit_code
        assert await asyncio.to_thread(probe, [f"127.0.0.1:{server.port}", "warmlane.unknown"]) == 1
    finally:
        await server.stop(0)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://127.0.0.1:1/health"])
def test_probe_fails_when_nobody_answers(address: str) -> None:
    # Port 1 is never served here.
    assert probe([address]) == 1


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"], ["http://127.0.0.1:1/", "service"]])
def test_probe_says_how_it_is_used_when_the_arguments_are_wrong(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe(arguments) == 2
    assert "usage" in capsys.readouterr().err
