"""The process table: what every process is told."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from command_line.failures import CommandError
from command_line.up.credentials import check_credentials
from command_line.up.folder import DataFolder
from command_line.up.gpus import assign_gpus
from command_line.up.ports import Ports, metrics_of
from command_line.up.processes import ALL_PROCESSES, LANES, Process, StackOptions, admission_address, stack_processes

PORTS = Ports(
    by_process={name: 50_000 + index for index, name in enumerate((*ALL_PROCESSES, *map(metrics_of, ALL_PROCESSES)))}, picked=frozenset()
)


def _options(profile: str = "tiny", processes: tuple[str, ...] = ALL_PROCESSES) -> StackOptions:
    return StackOptions(profile=profile, processes=processes, api_key="the-api-key", admin_key="the-admin-key")


def _table(folder: DataFolder, inherited: Mapping[str, str] | None = None, *, profile: str = "tiny") -> dict[str, Process]:
    made = stack_processes(_options(profile), ports=PORTS, folder=folder, inherited=inherited or {}, devices={"lane-phr00t": "1"})
    return {process.name: process for process in made}


def test_module_of_each_process_is_run_when_the_stack_starts(folder: DataFolder) -> None:
    modules = ["admission", "lane_anisora", "lane_phr00t", "degraded_pool", "http_bridge"]
    assert [process.command for process in _table(folder).values()] == [(sys.executable, "-m", module) for module in modules]


def test_every_client_dials_admission_when_ports_are_planned(folder: DataFolder) -> None:
    table = _table(folder)
    assert table["admission"].environment["WARMLANE_ADMISSION_BIND"] == "127.0.0.1:50000"
    assert {one.environment["WARMLANE_ADMISSION_ADDRESS"] for one in table.values()} == {"127.0.0.1:50000"}
    assert table["lane-phr00t"].environment["WARMLANE_INSPECTION_BIND"] == "127.0.0.1:50002"
    assert table["http-bridge"].environment["WARMLANE_HTTP_BIND"] == "127.0.0.1:50004"


def test_each_process_has_its_own_port_for_metrics_when_the_caller_set_one_for_all(folder: DataFolder) -> None:
    table = _table(folder, {"WARMLANE_METRICS_BIND": "127.0.0.1:9"})
    binds = {name: process.environment["WARMLANE_METRICS_BIND"] for name, process in table.items()}
    assert binds == {name: f"127.0.0.1:{50_005 + index}" for index, name in enumerate(ALL_PROCESSES)}


def test_keys_reach_the_bridge_only_when_they_are_set(folder: DataFolder) -> None:
    for name, process in _table(folder, {"WARMLANE_API_KEY": "the-api-key"}).items():
        assert ("the-api-key" in process.environment.values()) == (name == "http-bridge")


SECRETS: Mapping[str, set[str]] = {
    "WARMLANE_BRIDGE_TOKEN": {"admission", "http-bridge"},
    "WARMLANE_CLIENT_TOKEN": {"admission"},
    "WARMLANE_LANE_TOKEN": {"admission", *LANES},
    "WARMLANE_OPERATOR_TOKEN": {"admission", *LANES},
    "WARMLANE_API_KEY": {"http-bridge"},
    "WARMLANE_ADMIN_KEY": {"http-bridge"},
    "WARMLANE_IMAGE_UPSTREAM_KEY": {"http-bridge"},
    "WARMLANE_ACCOUNTS_UPSTREAM_KEY": {"http-bridge"},
    "WARMLANE_DATABASE_URL": {"admission"},
}


def test_each_secret_reaches_those_who_need_it_when_all_are_set(folder: DataFolder) -> None:
    table = _table(folder, {**dict.fromkeys(SECRETS, "x" * 40), "WARMLANE_TLS_CA_FILE": "/ca.pem"})
    for secret, told in SECRETS.items():
        assert {name for name, process in table.items() if secret in process.environment} == told, secret
    # Where certificates are is no secret.
    assert {process.environment["WARMLANE_TLS_CA_FILE"] for process in table.values()} == {"/ca.pem"}


TOKENS = ("WARMLANE_BRIDGE_TOKEN", "WARMLANE_LANE_TOKEN", "WARMLANE_OPERATOR_TOKEN")


def test_stack_starts_when_every_token_or_none_is_set() -> None:
    check_credentials(ALL_PROCESSES, {})
    check_credentials(ALL_PROCESSES, dict.fromkeys(TOKENS, "x" * 40))
    check_credentials(("admission", "http-bridge"), dict.fromkeys(("WARMLANE_BRIDGE_TOKEN", "WARMLANE_OPERATOR_TOKEN"), "x" * 40))


@pytest.mark.parametrize("missing", TOKENS)
def test_stack_says_which_token_is_missing_when_others_are_set(missing: str) -> None:
    given = dict.fromkeys((*TOKENS, "WARMLANE_CLIENT_TOKEN"), "x" * 40)
    del given[missing]
    with pytest.raises(CommandError, match=f"so {missing} must be set too"):
        check_credentials(ALL_PROCESSES, given)


def test_stack_says_what_is_missing_when_one_side_alone_speaks_tls() -> None:
    with pytest.raises(CommandError, match="WARMLANE_TLS_CA_FILE must be set too"):
        check_credentials(ALL_PROCESSES, {"WARMLANE_TLS_CERT_FILE": "/a", "WARMLANE_TLS_KEY_FILE": "/b"})
    with pytest.raises(CommandError, match="WARMLANE_TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE must be set too"):
        check_credentials(ALL_PROCESSES, {"WARMLANE_TLS_CA_FILE": "/a"})
    # An admission elsewhere has its own files.
    check_credentials(("lane-anisora",), {"WARMLANE_TLS_CA_FILE": "/a"})


def test_cookies_work_on_plain_http_when_the_stack_is_local(folder: DataFolder) -> None:
    assert _table(folder)["http-bridge"].environment["WARMLANE_COOKIE_SECURE"] == "false"


def test_data_lies_in_the_folder_when_nothing_else_is_said(folder: DataFolder) -> None:
    environment = _table(folder)["admission"].environment
    assert environment["WARMLANE_DATABASE_URL"] == f"sqlite:///{folder.root}/admission.db"
    assert environment["WARMLANE_OBJECT_STORE_URL"] == f"file://{folder.root}/objects"


def test_own_database_is_kept_when_the_caller_names_one(folder: DataFolder) -> None:
    table = _table(folder, {"WARMLANE_DATABASE_URL": "postgresql:///somewhere"})
    assert table["admission"].environment["WARMLANE_DATABASE_URL"] == "postgresql:///somewhere"


def test_lane_id_is_its_own_when_the_caller_has_one_set(folder: DataFolder) -> None:
    table = _table(folder, {"WARMLANE_LANE_ID": "stray"})
    assert table["lane-anisora"].environment["WARMLANE_LANE_ID"] == "lane-anisora"


def test_gpu_is_given_when_one_is_assigned(folder: DataFolder) -> None:
    table = _table(folder, profile="a10g")
    assert table["lane-phr00t"].environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert "WARMLANE_DEVICE" not in table["lane-phr00t"].environment


def test_processor_is_used_when_the_profile_is_tiny(folder: DataFolder) -> None:
    assert _table(folder)["lane-anisora"].environment["WARMLANE_DEVICE"] == "cpu"


def test_admission_is_looked_for_elsewhere_when_it_is_left_out() -> None:
    options = _options(processes=("lane-anisora",))
    assert admission_address(options, PORTS, {"WARMLANE_ADMISSION_ADDRESS": "10.0.0.1:50051"}) == "10.0.0.1:50051"


def test_each_lane_gets_its_own_gpu_when_there_are_enough() -> None:
    assert assign_gpus(["a", "b"], ["0", "1", "2"]) == {"a": "0", "b": "1"}


def test_lanes_to_leave_out_are_named_when_there_are_too_few_gpus() -> None:
    with pytest.raises(CommandError, match="--without b --without c"):
        assign_gpus(["a", "b", "c"], ["0"])


def test_no_gpu_is_assigned_when_there_is_none() -> None:
    assert assign_gpus(["a"], []) == {}
