"""The metrics of one process: made where the process is put together and handed down; and what is told of every process."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector

from runtime.metrics.definition import counter, gauge

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily, Metric

_NAMESPACE = "warmlane"

BUILD = gauge("build_info", "1; the labels say which process this is, and of which version.", "process", "version")

# These the library gives; it takes their values from /proc.
PROCESS = (
    counter("process_cpu_seconds_total", "Processor time that the process took, of user and system."),
    gauge("process_resident_memory_bytes", "Memory of the process that is in RAM; without that of its child processes."),
    gauge("process_virtual_memory_bytes", "Address space of the process."),
    gauge("process_start_time_seconds", "When the process was started, in seconds of Unix time."),
    gauge("process_open_fds", "Files and sockets that it has open."),
    gauge("process_max_fds", "Files and sockets that it may have open."),
)

ALL = (BUILD, *PROCESS)


class Registry(CollectorRegistry):
    """Every metric of a process."""

    def __init__(self, process: str) -> None:
        """Holds what is told of every process; `process` is its name."""
        super().__init__()
        self.register(_Build(process))
        self.register(_Process())


class _Process:
    """The library's figures, in our words."""

    def __init__(self) -> None:
        self._library = ProcessCollector(namespace=_NAMESPACE, registry=None)
        self._meanings = {one.name.removesuffix("_total"): one.meaning for one in PROCESS}

    def collect(self) -> Iterable[Metric]:
        for family in self._library.collect():
            family.documentation = self._meanings[family.name]
            yield family


class _Build:
    def __init__(self, process: str) -> None:
        self._process = process

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = BUILD.gauges()
        family.add_metric((self._process, version("warmlane")), 1)
        return (family,)
