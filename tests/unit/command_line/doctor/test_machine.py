"""Versions, memory, disks, weights, settings: what is right, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_line.doctor.finding import Case, Outcome
from command_line.doctor.host import check_memory, check_space, check_speed, existing
from command_line.doctor.probes import DiskSpeed, Probes
from command_line.doctor.settings import check_settings, known_settings
from command_line.doctor.versions import check_packages, check_pins, check_python
from command_line.doctor.weights import check_weights
from runtime.survey import Survey, SurveyOrder
from tests.unit.command_line.doctor.conftest import GIB, Look, broken, outcomes

OK, WARNING, FAILED, SKIPPED = Outcome


@pytest.mark.parametrize(("version", "outcome"), [((3, 11, 2), OK), ((3, 12, 1), FAILED)])
def test_python_is_judged_by_its_minor_version(look: Look, version: tuple[int, int, int], outcome: Outcome) -> None:
    assert look(check_python, python=version)["python"].outcome is outcome


def test_packages_are_told_by_who_needs_them_when_all_are_there(look: Look) -> None:
    found = look(check_packages)
    assert (found["packages"].outcome, found["packages.lane"].outcome) == (OK, OK)
    # Nothing is stated for the bridge.
    assert found["packages.bridge"].outcome is SKIPPED


def test_package_is_named_when_it_is_missing_or_out_of_its_range(look: Look) -> None:
    found = look(check_packages, version_of={"torch": "2.10.0"}.get)
    assert found["packages"].found == "grpcio is missing"
    assert found["packages.lane"].found == "torch 2.10.0 is not ==2.13.0"
    assert outcomes({name: found[name] for name in ("packages", "packages.lane")}) == {FAILED}
    assert "make install" in found["packages"].advice


def test_lane_s_packages_are_passed_over_when_none_is_installed(look: Look) -> None:
    assert look(check_packages, version_of={"grpcio": "1.86"}.get)["packages.lane"].outcome is SKIPPED
    assert look(check_packages, requirements=lambda: None)["packages"].outcome is SKIPPED


def test_package_that_two_processes_need_makes_neither_of_them_installed(look: Look) -> None:
    stated = [
        'uvloop>=0.21; extra == "admission"',
        'alembic; extra == "admission"',
        'uvloop>=0.21; extra == "bridge"',
        'fastapi; extra == "bridge"',
    ]
    found = look(check_packages, requirements=lambda: stated, version_of={"uvloop": "0.21", "alembic": "1.16"}.get)
    assert (found["packages.admission"].outcome, found["packages.bridge"].outcome) == (OK, SKIPPED)


def test_other_version_than_the_pin_is_a_warning_and_a_build_suffix_is_none(look: Look) -> None:
    assert look(check_pins)["pins"].outcome is OK
    other = look(check_pins, version_of={"grpcio": "1.86.0"}.get)["pins"]
    assert (other.outcome, other.found) == (WARNING, "other versions than those of constraints.txt: grpcio 1.86.0, not 1.85.1")
    assert look(check_pins, pins=dict)["pins"].outcome is SKIPPED


@pytest.mark.parametrize(
    ("profile", "host_gib", "available_gib", "outcome"),
    [
        ("tiny", 4, 3, OK),
        ("tiny", 4, 2, WARNING),
        ("tiny", 4, 0.5, FAILED),
        ("a10g", 128, 120, OK),
        ("a10g", 64, 60, WARNING),
        ("a10g", 48, 40, WARNING),
        ("a10g", 16, 12, WARNING),
    ],
)
def test_memory_is_judged_by_the_profile(look: Look, profile: str, host_gib: int, available_gib: float, outcome: Outcome) -> None:
    survey = Survey(host_bytes=host_gib * GIB, available_bytes=int(available_gib * GIB), torch=None, weights={})
    (found,) = look(check_memory, profile=profile, ports={}, survey=lambda order: survey).values()
    assert found.outcome is outcome
    assert bool(found.advice) is (outcome is not OK)


@pytest.mark.parametrize(("available_gib", "outcome"), [(1, OK), (0.25, WARNING)])
def test_what_the_running_stack_has_taken_is_not_missed(look: Look, available_gib: float, outcome: Outcome) -> None:
    survey = Survey(host_bytes=4 * GIB, available_bytes=int(available_gib * GIB), torch=None, weights={})
    assert look(check_memory, profile="tiny", survey=lambda order: survey)["memory"].outcome is outcome


def test_disk_is_not_tried_when_it_is_nearly_full(look: Look) -> None:
    found = look(check_speed, free_bytes=lambda folder: GIB, disk_speed=broken("nobody should write"))
    assert outcomes(found) == {SKIPPED}


@pytest.mark.parametrize(("free_gib", "data", "models"), [(500, OK, OK), (100, OK, FAILED), (1, WARNING, FAILED), (0.1, FAILED, FAILED)])
def test_space_is_judged_by_what_is_still_to_be_written(look: Look, free_gib: float, data: Outcome, models: Outcome) -> None:
    found = look(check_space, free_bytes=lambda folder: int(free_gib * GIB))
    assert (found["disk.space"].outcome, found["disk.space.models"].outcome) == (data, models)


def test_prepared_models_need_no_more_room(look: Look, case: Case) -> None:
    for model in ("anisora", "phr00t"):
        (case.models_dir / model).mkdir(parents=True)
        (case.models_dir / model / "manifest.json").touch()
    assert look(check_space)["disk.space.models"].outcome is SKIPPED
    assert set(look(check_space, profile="tiny")) == {"disk.space"}


@pytest.mark.parametrize(
    ("profile", "read_bytes_s", "outcome"), [("a10g", 1e9, OK), ("a10g", 5e7, WARNING), ("tiny", 5e7, OK), ("tiny", 1e7, WARNING)]
)
def test_disk_is_slow_when_a_model_is_not_read_within_ten_minutes(look: Look, profile: str, read_bytes_s: float, outcome: Outcome) -> None:
    found = look(check_speed, profile=profile, disk_speed=lambda folder: DiskSpeed(write_bytes_s=5e8, read_bytes_s=read_bytes_s))
    assert (found["disk.speed"].outcome, found["disk.speed.models"].outcome) == (outcome, SKIPPED)


def test_each_disk_is_measured_when_the_models_have_their_own(look: Look, case: Case) -> None:
    case.models_dir.mkdir()
    found = look(check_speed, disk_of=lambda folder: len(folder.parts))
    assert "largest model" in found["disk.speed.models"].found
    assert "largest model" not in found["disk.speed"].found


def test_disk_that_cannot_be_written_fails_the_check(look: Look) -> None:
    found = look(check_speed, disk_speed=broken("no such right"))["disk.speed"]
    assert (found.outcome, found.found) == (FAILED, "no such right")


def test_folder_to_come_is_looked_for_above_when_it_is_not_there(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path


def test_weights_are_whole_or_the_command_that_makes_them_is_told(look: Look, case: Case, probes: Probes) -> None:
    assert outcomes(look(check_weights)) == {OK}
    assert look(check_weights, profile="tiny")["weights"].outcome is SKIPPED

    def survey(order: SurveyOrder) -> Survey:
        assert order.models_dir == case.models_dir
        return Survey(host_bytes=1, available_bytes=1, torch=None, weights={"anisora": "it has no manifest.json", "phr00t": ""})

    found = look(check_weights, survey=survey)
    assert (found["weights.anisora"].outcome, found["weights.phr00t"].outcome) == (FAILED, OK)
    assert found["weights.anisora"].advice == f"`warmlane prepare anisora --models-dir {case.models_dir}`"
    (case.models_dir / "anisora").mkdir(parents=True)
    (case.models_dir / "anisora" / "manifest.json").touch()
    assert "--check" in look(check_weights, survey=survey)["weights.anisora"].advice


def test_unknown_setting_is_named_with_the_nearest_one(look: Look) -> None:
    given = {"WARMLANE_API_KEYS": "hush", "WARMLANE_LOG_LEVEL": "info", "WARMLANE_ZZZ": "1", "PATH": "/bin"}
    found = look(check_settings, environment=given)
    assert {name: one.advice for name, one in found.items()} == {
        "settings.WARMLANE_API_KEYS": "Did you mean WARMLANE_API_KEY?",
        "settings.WARMLANE_ZZZ": "Unset it; docs/reference/settings.md lists every setting.",
    }
    assert outcomes(found) == {WARNING}
    assert not any("hush" in one.found + one.advice for one in found.values())
    assert look(check_settings, environment={"WARMLANE_LOG_LEVEL": "info"})["settings"].outcome is OK


def test_variable_that_up_sets_itself_is_known() -> None:
    assert "WARMLANE_UP_FOLDER" in known_settings()
