"""What the worker is for, what it is given and what it says of itself: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.fit.cost import WorkerMemory
from runtime.lane.about import About
from runtime.lane.loading import LoadProgress
from runtime.lane.start_failure import StartFailure
from runtime.lane.state import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What the pipeline's process is for and how long things may take.

    Attributes:
        name: the lane's id, for log lines.
        warm_model: loaded at every start and kept; empty for a pool, which loads on demand.
        torch_threads: 0: one per core.
        cancel_grace_s: a process that did not end a cancelled attempt by then is killed.
        load_deadline_s: a process that is not ready by then is killed.
        memory_budget_bytes: what the device has for it, if not all its own; 0: that.
        memory_margin_bytes: of that, kept free of predictions; None: the device's default.
        pinned_limit_bytes: host memory that may be pinned; None: the device's default.
        compile_blocks: of transformers, where the device lets them be.
        attention_backend: of transformers; `auto`: what the GPU and the installed packages offer.
        overlap: an attempt is encoded and stored beside the next one's render.
    """

    name: str
    catalog: str
    profile: str
    models_dir: Path
    device: str
    object_store_url: str
    warm_model: str = ""
    torch_threads: int = 0
    cancel_grace_s: float = 10.0
    load_deadline_s: float = 1800.0
    memory_budget_bytes: int = 0
    memory_margin_bytes: int | None = None
    pinned_limit_bytes: int | None = None
    attention_backend: str = "auto"
    compile_blocks: bool = False
    overlap: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """What can be said of the process now.

    Attributes:
        warm: the model to keep is loaded and verified; for a pool, the process is up.
        reason: why it is not warm or not healthy; a sentence for operators.
        pid: 0 when none runs.
        cold_starts: processes started, the first included.
        memory: what its device has and what placements cost there, as the last process measured it; None before the first one did.
        load: what is being loaded and how far that is; None when nothing is.
        failure: why it is not warm although it was tried; None once it is.
        object_store_failure: why an attempt's files cannot be stored or fetched now; empty: nothing of the kind.
    """

    warm: bool = False
    healthy: bool = True
    reason: str = "the pipeline's process starts"
    resident_model: str = ""
    device: str = ""
    pid: int = 0
    cold_starts: int = 0
    memory: WorkerMemory | None = None
    load: LoadProgress | None = None
    failure: StartFailure | None = None
    object_store_failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An attempt to work on.

    Attributes:
        deadline_s: it may take this long from now on.
        placement: that admission named; empty: the lane chooses.
        predicted_peak_bytes: for it, by admission; 0: not predicted.
        trace_id: for log lines; empty: none.
        is_timed: the ends of its parts are wanted.
    """

    attempt: Attempt
    parameters: Mapping[str, object]
    artifact_prefix: str
    deadline_s: float
    placement: str = ""
    predicted_peak_bytes: int = 0
    trace_id: str = ""
    is_timed: bool = False

    def about(self) -> About:
        """For log lines."""
        return About(self.attempt, str(self.parameters.get("model", "")), self.trace_id)
