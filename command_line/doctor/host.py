"""Whether the machine is large and quick enough: host memory, room on its disks, and their speed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from command_line.doctor.finding import Case, Finding, failed, ok, skipped, warning
from command_line.doctor.probes import ProbeError, Probes
from runtime.fit.gpus import baseline_models
from runtime.fit.host import host_reserve_bytes
from runtime.survey import SurveyOrder

_MIB, _GIB, _MB, _GB = 1024**2, 1024**3, 1000**2, 1000**3
# All processes of the tiny profile hold some 1.7 GiB after they have rendered every mode (README.md, Measured).
_TINY_BYTES, _TINY_LEAST_BYTES = 5 * _GIB // 2, 1 * _GIB
_LEFT_BYTES = 512 * _MIB
# Database, logs, results: a clip is a few MB.
_DATA_BYTES, _DATA_LEAST_BYTES = 2 * _GIB, 256 * _MIB
# What `warmlane prepare` downloads and writes at the same time, for fp8 (docs/howto/prepare-checkpoints.md).
_PREPARE_BYTES = {"anisora": 105 * _GB, "phr00t": 49 * _GB}
# The promise after a deploy: warm within ten minutes.
_WARM_S = 600.0
_SLOW_BYTES_S = 20 * _MB


def check_memory(case: Case, probes: Probes) -> Iterable[Finding]:
    """Memory of the machine or container, against what the profile needs."""
    survey = probes.survey(SurveyOrder())
    told = f"{survey.host_bytes / _GIB:.1f} GiB, {survey.available_bytes / _GIB:.1f} available"
    if case.ports:
        # What the stack has taken counts as its own.
        yield _running_memory(told, survey.available_bytes)
    elif case.is_tiny:
        yield _tiny_memory(told, survey.available_bytes)
    if not case.is_tiny:
        yield _model_memory(told, survey.host_bytes)


def check_space(case: Case, probes: Probes) -> Iterable[Finding]:
    """Room for state and results, and for the weights that are still to be prepared."""
    free_bytes = probes.free_bytes(existing(case.data_dir))
    told = f"{free_bytes / _GIB:.1f} GiB free for {case.data_dir}"
    advice = "Make room, or name another folder with --data-dir: without room nothing is accepted."
    if free_bytes < _DATA_LEAST_BYTES:
        yield failed("disk.space", told, advice)
    elif free_bytes < _DATA_BYTES:
        yield warning("disk.space", told, advice)
    else:
        yield ok("disk.space", told)
    if not case.is_tiny:
        yield _weights_space(case, probes)


def check_speed(case: Case, probes: Probes) -> Iterable[Finding]:
    """Sequential writes and reads of both folders' disks."""
    data, models = existing(case.data_dir), existing(case.models_dir)
    yield from _speed("disk.speed", data, case, probes)
    if probes.disk_of(data) == probes.disk_of(models):
        yield skipped("disk.speed.models", f"{case.models_dir} is on the same disk")
    else:
        yield from _speed("disk.speed.models", models, case, probes)


def existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there: a first start makes the rest."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _running_memory(told: str, available_bytes: int) -> Finding:
    if available_bytes < _LEFT_BYTES:
        return warning("memory", f"{told} beside the running stack", "The kernel may kill a process: stop something.")
    return ok("memory", told)


def _tiny_memory(told: str, available_bytes: int) -> Finding:
    advice = "Stop something, or leave a process out (`warmlane up --without …`)."
    if available_bytes < _TINY_LEAST_BYTES:
        return failed("memory", f"{told}; the tiny profile needs 2.5 GiB", advice)
    if available_bytes < _TINY_BYTES:
        return warning("memory", f"{told}; the tiny profile needs 2.5 GiB with every process", advice)
    return ok("memory", told)


def _model_memory(told: str, host_bytes: int) -> Finding:
    """A host that is too small refuses nothing: lanes then map weights from disk."""
    weights = {traced.model: max(rung.host_bytes for rung in traced.ladder("fp8").rungs) for traced in baseline_models()}
    needed = ", ".join(f"{model} {size_bytes / _GIB:.1f}" for model, size_bytes in weights.items())
    room_bytes = host_bytes - host_reserve_bytes(host_bytes)
    told = f"{told}; weights in fp8 take {needed} GiB, each lane its own"
    dedicated_bytes, pool_bytes = sum(weights.values()), max(weights.values())
    if room_bytes >= dedicated_bytes + pool_bytes:
        return ok("memory.weights", told)
    elsewhere = "Run the others on other machines (docs/howto/across-machines.md), or they map weights from disk, which is slower."
    if room_bytes >= dedicated_bytes:
        return warning("memory.weights", f"{told}: room for both dedicated lanes, not for the pool beside them", elsewhere)
    if room_bytes >= pool_bytes:
        return warning("memory.weights", f"{told}: room for one lane", elsewhere)
    return warning(
        "memory.weights", f"{told}: not enough for every model", "Lanes map weights from disk, which is slower: take a larger host."
    )


def _weights_space(case: Case, probes: Probes) -> Finding:
    missing = [model for model in _PREPARE_BYTES if not (case.models_dir / model / "manifest.json").exists()]
    if not missing:
        return skipped("disk.space.models", "every model is prepared")
    needed_bytes = sum(_PREPARE_BYTES[model] for model in missing)
    free_bytes = probes.free_bytes(existing(case.models_dir))
    told = f"{free_bytes / _GB:.0f} GB free for {case.models_dir}; preparing {' and '.join(missing)} takes {needed_bytes / _GB:.0f} GB"
    if free_bytes < needed_bytes:
        return failed("disk.space.models", told, "Make room, or keep downloads elsewhere: `warmlane prepare MODEL --downloads-dir D`.")
    return ok("disk.space.models", told)


def _speed(name: str, folder: Path, case: Case, probes: Probes) -> Iterator[Finding]:
    if probes.free_bytes(folder) < _DATA_BYTES:
        # The trial must not be what fills a disk that admission writes to.
        yield skipped(name, f"{folder} has too little room for a trial")
        return
    try:
        speed = probes.disk_speed(folder)
    except ProbeError as error:
        yield failed(name, str(error), "The user of the processes must be able to write there.")
        return
    told = f"{folder}: writes {speed.write_bytes_s / _MB:.0f} MB/s, reads {speed.read_bytes_s / _MB:.0f} MB/s"
    if not case.is_tiny and name == _weights_speed(case, probes):
        largest = max(sum(part.total_bytes for part in traced.parts["fp8"].parts) for traced in baseline_models())
        load_s = largest / speed.read_bytes_s
        told += f"; the largest model is read in {load_s:.0f} s"
        if load_s > _WARM_S:
            yield warning(name, told, "A lane is not warm within ten minutes: take a faster disk (docs/howto/operate.md, Cold starts).")
            return
    if min(speed.write_bytes_s, speed.read_bytes_s) < _SLOW_BYTES_S:
        yield warning(name, told, "A slow disk, or a busy one: acceptances wait for it. Look at what else uses it.")
    else:
        yield ok(name, told)


def _weights_speed(case: Case, probes: Probes) -> str:
    """Under which name the disk of the weights is looked at."""
    is_same = probes.disk_of(existing(case.data_dir)) == probes.disk_of(existing(case.models_dir))
    return "disk.speed" if is_same else "disk.speed.models"
