"""Whether the GPUs can carry the profile: driver, torch's view of them, memory, who else uses them, and the allocator's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import Driver, Probes
from command_line.plan_rows import Asked, shapes
from command_line.up.processes import LANES
from runtime.fit.cost import DeviceLimits
from runtime.fit.gpus import BASELINE, GPUS, baseline_models
from runtime.fit.predict import choose
from runtime.survey import SurveyedGpu, SurveyOrder

_MIB, _GIB = 1024**2, 1024**3
_TINY = "the profile tiny renders on the CPU"
# Turing: below it torch's builds have no code. Ampere: bf16 in hardware.
_LEAST, _WITH_BF16 = (7, 5), (8, 0)
# The clip of every promise, and the least that users ask for.
_PROMISED = Asked(model=None, mode="i2v", size=(720, 1280), frames=81)
_LEAST_CLIP = Asked(model=None, mode="i2v", size=(480, 832), frames=81)
# In use without a process: what the driver itself keeps of a GPU.
_FREE_MIB = 600


def check_driver(case: Case, probes: Probes) -> Iterable[Finding]:
    """nvidia-smi, and a GPU for each lane."""
    if case.is_tiny:
        yield skipped("gpu.driver", _TINY)
        return
    driver = probes.driver()
    if driver is None or not driver.gpus:
        what = "nvidia-smi is not there or does not answer" if driver is None else "the driver shows no GPU"
        yield failed(
            "gpu.driver", what, "Install NVIDIA's driver; in a container, give it the GPUs (`--gpus all`). `dmesg` says why one is lost."
        )
        return
    told = ", ".join(f"{one.index}: {one.name}, {one.total_mib / 1024:.1f} GiB, compute {one.capability}" for one in driver.gpus)
    found = f"driver {driver.gpus[0].driver}; {told}"
    if len(driver.gpus) < len(LANES):
        out = " ".join(f"--without {name}" for name in LANES[len(driver.gpus) :])
        yield warning("gpu.driver", f"{found}; fewer GPUs than lanes ({len(LANES)})", f"`warmlane up --profile a10g {out}`")
    else:
        yield ok("gpu.driver", found)


def check_torch(case: Case, probes: Probes) -> Iterable[Finding]:
    """What torch sees: build, each GPU's compute capability, and what fits in its memory."""
    if case.is_tiny:
        yield skipped("gpu.torch", _TINY)
        return
    found = probes.survey(SurveyOrder(with_torch=True)).torch
    if found is None or found.error:
        yield failed("gpu.torch", found.error if found else "torch was not looked at", "Install the lanes' packages: `make install`.")
        return
    if not found.cuda:
        yield failed("gpu.torch", f"torch {found.version} was built without CUDA", "Install torch's CUDA build of the same version.")
        return
    if not found.gpus:
        yield failed(
            "gpu.torch",
            f"torch {found.version} (CUDA {found.cuda}) sees no GPU",
            "Look at CUDA_VISIBLE_DEVICES, and whether the driver is new enough for this CUDA.",
        )
        return
    yield ok("gpu.torch", f"torch {found.version}, CUDA {found.cuda}, {len(found.gpus)} GPUs")
    for gpu in found.gpus:
        yield from _gpu(gpu)


def check_gpu_processes(case: Case, probes: Probes) -> Iterable[Finding]:
    """Who else has memory of a GPU."""
    if case.is_tiny:
        yield skipped("gpu.processes", _TINY)
        return
    driver = probes.driver()
    if driver is None:
        yield skipped("gpu.processes", "nvidia-smi is not there")
        return
    own = {pid for process in case.pids.values() for pid in (process, *probes.descendants(process))}
    others = [one for one in driver.processes if one.pid not in own]
    if others:
        told = ", ".join(f"{one.name or 'unknown'} (process {one.pid}) has {one.used_mib} MiB" for one in others)
        yield warning(
            "gpu.processes", told, "Stop it, or start the lanes on other GPUs (CUDA_VISIBLE_DEVICES): what it has, clips do not get."
        )
        return
    untold = list(_used_by_nobody(driver)) if not case.pids else []
    if untold:
        yield warning(
            "gpu.processes", "; ".join(untold), "A process outside this container, or a dead one: `nvidia-smi` on the host names it."
        )
    else:
        yield ok("gpu.processes", "nobody else uses the GPUs")


def check_allocator(case: Case, probes: Probes) -> Iterable[Finding]:
    """The settings of torch's allocator, which lanes complete before they start a pipeline."""
    if case.is_tiny:
        yield skipped("gpu.allocator", _TINY)
        return
    yield _allocator(case.environment)


def _allocator(environment: Mapping[str, str]) -> Finding:
    name = "gpu.allocator"
    older, newer = environment.get("PYTORCH_CUDA_ALLOC_CONF", ""), environment.get("PYTORCH_ALLOC_CONF", "")
    told = older or newer
    if older and newer and older != newer:
        return warning(name, "PYTORCH_CUDA_ALLOC_CONF and PYTORCH_ALLOC_CONF are set and differ; the first wins", "Unset one of them.")
    if "expandable_segments:false" in told.lower().replace(" ", ""):
        return warning(
            name, f"expandable segments are off ({told})", "Unset it: lanes turn them on, and predictions of memory count on it."
        )
    if "cudamallocasync" in told.lower():
        return warning(name, f"the driver's allocator is set ({told})", "Unset it: memory is measured and predicted with torch's own.")
    return ok(name, f"{told}; lanes add expandable_segments:True" if told else "not set; lanes set expandable_segments:True themselves")


def _gpu(gpu: SurveyedGpu) -> Iterator[Finding]:
    name = f"gpu.{gpu.index}"
    if gpu.error:
        yield failed(
            name, f"{gpu.name or 'a GPU'} cannot be opened: {gpu.error}", "`nvidia-smi` and `dmesg` say more; another process may have it."
        )
        return
    what = f"{gpu.name}, compute {gpu.capability[0]}.{gpu.capability[1]}"
    if gpu.capability < _LEAST:
        yield failed(name, f"{what}: older than 7.5", "Take a T4 or a newer GPU.")
        return
    yield _memory(gpu, what)
    if gpu.capability < _WITH_BF16:
        yield warning(f"{name}.types", f"{what}: no bf16", "It works with fp16 and leaner placements, without a promise of latency.")


def _memory(gpu: SurveyedGpu, what: str) -> Finding:
    """What of the usual clips fits, by the same prediction that admission refuses with."""
    name, limits = f"gpu.{gpu.index}", replace(GPUS[BASELINE], gpu=gpu.name, total_bytes=gpu.total_bytes)
    seen = f"{what}, {gpu.total_bytes / _GIB:.2f} GiB visible, {gpu.free_bytes / _GIB:.2f} free"
    missing = _not_fitting(limits, _LEAST_CLIP)
    if missing:
        return failed(name, f"{seen}: 480x832, 81 frames does not fit ({', '.join(missing)})", "`warmlane plan` shows which GPU fits what.")
    missing = _not_fitting(limits, _PROMISED)
    if missing:
        return warning(name, f"{seen}: 720x1280, 81 frames does not fit ({', '.join(missing)})", "`warmlane plan` shows what fits.")
    return ok(name, f"{seen}: 720x1280, 81 frames fits")


def _not_fitting(limits: DeviceLimits, asked: Asked) -> list[str]:
    return [
        traced.model
        for traced in baseline_models()
        if any(choose(traced.ladder("fp8"), limits, shape) is None for shape in shapes(traced.model, asked))
    ]


def _used_by_nobody(driver: Driver) -> Iterator[str]:
    """GPUs whose memory is in use although the driver names no process: in a container it does not."""
    named = {one.uuid for one in driver.processes}
    for gpu in driver.gpus:
        if gpu.used_mib > _FREE_MIB and gpu.uuid not in named:
            yield f"GPU {gpu.index}: {gpu.used_mib} MiB are in use by a process that is not named here"
