"""GPUs: none is needed for the tiny profile, and for the other each thing that may be wrong is told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from command_line.doctor.finding import Finding, Outcome
from command_line.doctor.gpu import check_allocator, check_driver, check_gpu_processes, check_torch
from command_line.doctor.probes import Driver, GpuProcess
from tests.unit.command_line.doctor.conftest import A10G, GIB, Look, driver_of, outcomes, torch_with

OK, WARNING, FAILED, SKIPPED = Outcome


def _boom(*_arguments: object) -> None:
    raise AssertionError("nobody should look")


@pytest.mark.parametrize("check", [check_driver, check_torch, check_gpu_processes, check_allocator])
def test_gpu_is_not_looked_at_when_the_profile_is_tiny(look: Look, check: object) -> None:
    found = look(check, profile="tiny", driver=_boom, survey=_boom)
    assert outcomes(found) == {SKIPPED}
    assert all("CPU" in one.found for one in found.values())


def test_gpus_are_listed_when_there_is_one_for_each_lane(look: Look) -> None:
    found = look(check_driver)["gpu.driver"]
    assert found.outcome is OK
    assert "driver 580.1" in found.found
    assert "2: NVIDIA A10G, 22.5 GiB, compute 8.6" in found.found


def test_lanes_to_leave_out_are_told_when_there_are_fewer_gpus(look: Look) -> None:
    found = look(check_driver, driver=lambda: driver_of(1))["gpu.driver"]
    assert (found.outcome, found.advice) == (WARNING, "`warmlane up --profile a10g --without lane-phr00t --without degraded-pool`")


@pytest.mark.parametrize("driver", [None, Driver(gpus=[], processes=[])])
def test_machine_is_no_gpu_host_when_the_driver_tells_of_none(look: Look, driver: Driver | None) -> None:
    assert look(check_driver, driver=lambda: driver)["gpu.driver"].outcome is FAILED


def test_a10g_has_room_for_the_usual_clips(look: Look) -> None:
    found = look(check_torch)
    assert outcomes(found) == {OK}
    assert "720x1280, 81 frames fits" in found["gpu.0"].found


@pytest.mark.parametrize(
    ("gpu", "outcome", "told"),
    [
        (A10G.model_copy(update={"total_bytes": 4 * GIB}), FAILED, "480x832, 81 frames does not fit"),
        (A10G.model_copy(update={"capability": (7, 0)}), FAILED, "older than 7.5"),
        (A10G.model_copy(update={"error": "out of memory"}), FAILED, "cannot be opened: out of memory"),
    ],
)
def test_gpu_is_refused_when_it_cannot_render(look: Look, gpu: object, outcome: Outcome, told: str) -> None:
    found = look(check_torch, survey=torch_with(gpu))["gpu.0"]  # type: ignore[arg-type]
    assert found.outcome is outcome
    assert told in found.found


def test_larger_clips_are_told_not_to_fit_when_only_the_small_ones_do(look: Look) -> None:
    def seen(total_gib: int) -> Finding:
        return look(check_torch, survey=torch_with(A10G.model_copy(update={"total_bytes": total_gib * GIB})))["gpu.0"]

    least = next(found for total_gib in range(6, 22) if (found := seen(total_gib)).outcome is not FAILED)
    assert least.outcome is WARNING
    assert "720x1280, 81 frames does not fit" in least.found


def test_types_are_told_when_the_gpu_has_no_bf16(look: Look) -> None:
    t4 = A10G.model_copy(update={"name": "Tesla T4", "capability": (7, 5), "total_bytes": int(14.56 * GIB)})
    assert look(check_torch, survey=torch_with(t4))["gpu.0.types"].outcome is WARNING


@pytest.mark.parametrize(
    ("survey", "told"),
    [
        (torch_with(), "sees no GPU"),
        (torch_with(A10G, cuda=""), "built without CUDA"),
        (torch_with(error="ImportError: libcudart"), "libcudart"),
    ],
)
def test_torch_is_told_to_be_wrong_when_it_cannot_use_a_gpu(look: Look, survey: object, told: str) -> None:
    found = look(check_torch, survey=survey)["gpu.torch"]
    assert found.outcome is FAILED
    assert told in found.found


def test_other_process_is_named_when_it_has_memory_of_a_gpu(look: Look) -> None:
    other = GpuProcess(uuid="GPU-0", pid=77, name="blender", used_mib=4000)
    own = replace(other, pid=112)
    found = look(check_gpu_processes, driver=lambda: replace(driver_of(3), processes=[own, other]))["gpu.processes"]
    assert (found.outcome, found.found) == (WARNING, "blender (process 77) has 4000 MiB")
    assert look(check_gpu_processes, driver=lambda: replace(driver_of(3), processes=[own]))["gpu.processes"].outcome is OK


def test_memory_in_use_is_told_when_no_process_is_named(look: Look) -> None:
    used = [replace(driver_of(1).gpus[0], used_mib=9000)]
    found = look(check_gpu_processes, driver=lambda: Driver(gpus=used, processes=[]), pids={})["gpu.processes"]
    assert found.outcome is WARNING
    assert "9000 MiB" in found.found


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({}, OK),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}, OK),
        ({"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, WARNING),
        ({"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"}, WARNING),
        ({"PYTORCH_ALLOC_CONF": "a:1", "PYTORCH_CUDA_ALLOC_CONF": "a:2"}, WARNING),
    ],
)
def test_allocator_is_judged_by_what_lanes_make_of_it(look: Look, environment: dict[str, str], outcome: Outcome) -> None:
    found = look(check_allocator, environment=environment)["gpu.allocator"]
    assert found.outcome is outcome
    assert bool(found.advice) is (outcome is WARNING)
