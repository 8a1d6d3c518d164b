"""What a lane's metrics are. All have the lane's id and its mode (dedicated or degraded_shared)."""

from __future__ import annotations

from typing import NamedTuple

from runtime.metrics.definition import Definition, counter, gauge, histogram


class LaneLabels(NamedTuple):
    """Which lane it is: its id, and `dedicated` or `degraded_shared`."""

    lane: str
    lane_mode: str


LANE = LaneLabels._fields

_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
_CLEANUP_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Around 1 it matters: above it a prediction was too low.
_RATIOS = (0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0, 1.01, 1.025, 1.05, 1.1, 1.2, 1.5)


def _of_the_last(name: str, meaning: str, *labels: str) -> Definition:
    sentence = f"{meaning}, after the last attempt that was measured; absent where the device cannot tell."
    return gauge(f"lane_{name}", sentence, *LANE, *labels)


# Counted as attempts end and the pipeline's process comes and goes.

ATTEMPTS = counter("lane_attempts_total", "Attempts that ended: done, or the code of the failure.", *LANE, "model", "code")
PLACEMENTS = counter("lane_attempt_placements_total", "Attempts by the placement of their last try.", *LANE, "model", "placement")
OUT_OF_MEMORY = counter(
    "lane_out_of_memory_total", "How often the memory ran out, by phase: also where a second try then did it.", *LANE, "model", "phase"
)
PEAK_RATIO = histogram(
    "lane_peak_ratio", "Measured peak of an attempt over what was predicted for its last try.", *LANE, "model", buckets=_RATIOS
)
CLEANUP = histogram("lane_cleanup_seconds", "Seconds of the cleanup after an attempt.", *LANE, buckets=_CLEANUP_S)
RENDER = histogram(
    "lane_render_seconds", "Seconds from the lease's arrival to the end of encoding, of attempts that came so far.", *LANE, "model",
    buckets=_SECONDS,
)  # fmt: skip
STEP = histogram(
    "lane_step_seconds", "Seconds of a denoising step, as the mean over an attempt that was done.", *LANE, "model", buckets=_SECONDS
)
FRAMES = counter("lane_frames_total", "Frames of the videos that were made.", *LANE, "model")
TOKENS = counter("lane_latent_tokens_total", "Latent tokens of the videos that were made: the measure of their work.", *LANE, "model")
SWITCHES = counter(
    "lane_switches_total",
    "Models that were loaded before an attempt, by reason: nothing_resident, other_resident, or process_replaced (the memory of the "
    "old one did not come back).",
    *LANE,
    "model",
    "reason",
)
RELEASE = histogram("lane_switch_release_seconds", "Seconds that the release before a load took.", *LANE, buckets=_SECONDS)
LOAD = histogram(
    "lane_switch_load_seconds",
    "Seconds that a load before an attempt took, by where the weights were: host (memory) or disk.",
    *LANE,
    "model",
    "source",
    buckets=_SECONDS,
)
RELEASED_BYTES = counter("lane_switch_released_bytes_total", "Bytes that were released before loads.", *LANE)
LOADED_BYTES = counter("lane_switch_loaded_bytes_total", "Bytes that were loaded before attempts.", *LANE, "model")
COLD_START = histogram(
    "lane_cold_start_seconds", "Seconds from the start of a pipeline process to warm; of the pool: to up.", *LANE, buckets=_SECONDS
)

# Read when somebody asks.

ALLOCATED = _of_the_last("allocated_bytes", "Live tensors on the device")
RESERVED = _of_the_last("reserved_bytes", "Bytes that the allocator holds")
PEAK_ALLOCATED = _of_the_last("peak_allocated_bytes", "Highest bytes of live tensors during the attempt")
PEAK_RESERVED = _of_the_last("peak_reserved_bytes", "Highest bytes held by the allocator during the attempt")
DRIVER_FREE = _of_the_last("driver_free_bytes", "Bytes free on the device as its driver sees it")
PINNED = _of_the_last("pinned_bytes", "Pinned host memory")
HOST_RSS = _of_the_last("host_resident_memory_bytes", "Memory of the pipeline's process that is in RAM")
HOST_RSS_PEAK = _of_the_last("host_resident_memory_peak_bytes", "Highest memory of the pipeline's process in RAM since it started")
DRIFT = _of_the_last("drift_bytes", "Live bytes above the least that was seen after an attempt with the same model resident")
PREDICTED_PEAK = _of_the_last("predicted_peak_bytes", "Peak that was predicted for its last try", "model", "placement")
MEASURED_PEAK = _of_the_last("measured_peak_bytes", "Highest peak of its phases", "model", "placement")
RESIDUE = gauge(
    "lane_residue_bytes",
    "Live tensor bytes that the last release before a load left; 0: no more than the device's libraries keep. Absent before the first.",
    *LANE,
)
WARM = gauge("lane_warm", "1: the model to keep is loaded and verified; of the pool: its pipeline process is up.", *LANE)
HEALTHY = gauge("lane_healthy", "0: the pipeline's process died 3 times in a row.", *LANE)
ATTACHED = gauge("lane_attached", "1: a stream to admission is open and answered.", *LANE)
DRAINED = gauge("lane_drained", "1: an operator drains the lane.", *LANE)
RESIDENT = gauge("lane_resident_model_info", "1: this model is loaded.", *LANE, "model")
COLD_STARTS = counter("lane_cold_starts_total", "Pipeline processes that were started, the first included.", *LANE)
BUDGET = gauge(
    "lane_device_memory_bytes",
    "Memory of the device: total (that torch sees), other (used beside torch's allocator), margin (kept free). What is left is the budget "
    "of weights and activations. Absent until the first pipeline process has measured it.",
    *LANE,
    "part",
)
PINNED_LIMIT = gauge("lane_pinned_limit_bytes", "Host memory that may be pinned. Absent as the memory of the device.", *LANE)
OBJECT_STORE_AWAY = gauge(
    "lane_object_store_away", "1: the object store does not take or give the files of an attempt, and the lane tries again.", *LANE
)

COUNTED = (
    ATTEMPTS, PLACEMENTS, OUT_OF_MEMORY, PEAK_RATIO, CLEANUP, RENDER, STEP, FRAMES, TOKENS, SWITCHES, RELEASE, LOAD, RELEASED_BYTES,
    LOADED_BYTES, COLD_START,
)  # fmt: skip
OF_THE_RECORD = (
    ALLOCATED, RESERVED, PEAK_ALLOCATED, PEAK_RESERVED, DRIVER_FREE, PINNED, HOST_RSS, HOST_RSS_PEAK, DRIFT, PREDICTED_PEAK, MEASURED_PEAK,
    RESIDUE,
)  # fmt: skip
OF_THE_STATE = (WARM, HEALTHY, ATTACHED, DRAINED, RESIDENT, COLD_STARTS, BUDGET, PINNED_LIMIT, OBJECT_STORE_AWAY)
ALL = (*COUNTED, *OF_THE_RECORD, *OF_THE_STATE)
