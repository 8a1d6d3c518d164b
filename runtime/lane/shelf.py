"""The weights that a process keeps in host memory, of the resident model and of others: so a switch back costs no read from disk."""

from __future__ import annotations

from dataclasses import replace

import structlog

from runtime.lane.loading import LoadTeller
from runtime.lane.memory.process import host_available_bytes
from runtime.lane.renderer import Catalog, HostWeights, LoadSettings
from runtime.lane.residency import HeldWeights, plan_host, weight_room

_log = structlog.get_logger()


class Shelf:
    """Weights by model, the one used longest ago first. One thread uses it."""

    def __init__(self, catalog: Catalog, settings: LoadSettings) -> None:
        """Starts empty."""
        self._catalog = catalog
        self._settings = settings
        self._memory = settings.memory
        self._weights: dict[str, HostWeights] = {}
        self._mapped: set[str] = set()

    def __contains__(self, model: str) -> bool:
        """Whether the model's weights are here."""
        return model in self._weights

    def __getitem__(self, model: str) -> HostWeights:
        """The model's weights, which count as just used. Raises KeyError when they are not here."""
        self._weights[model] = weights = self._weights.pop(model)
        return weights

    def is_mapped(self, model: str) -> bool:
        """Whether the model's weights were left on disk because the host is too small for them."""
        return model in self._mapped

    def read(self, wanted: HeldWeights, teller: LoadTeller) -> None:
        """Makes room as the policy says, and brings the weights here; the teller hears how far that is.

        Raises what the catalog raises; then they are not here.
        """
        # Pinning tens of gigabytes takes a while, and is done before the first byte is read.
        teller.stage("making room in host memory")
        held = tuple(
            HeldWeights(model=model, host_bytes=weights.host_bytes, pinned_bytes=weights.pinned_bytes)
            for model, weights in self._weights.items()
        )
        limits = self._memory.limits()
        room = weight_room(
            total_bytes=limits.host_bytes,
            available_bytes=host_available_bytes(),
            held_bytes=sum(one.host_bytes for one in held),
            pinned_limit_bytes=limits.pinned_limit_bytes,
        )
        plan = plan_host(wanted, held, room)
        _log.info("host_memory_planned", model=wanted.model, drops=plan.drops, is_mapped=plan.is_mapped, reason=plan.reason)
        for model in plan.drops:
            self.drop(model)
        settings = replace(self._settings, is_host_poor=plan.is_mapped, on_read=teller.read)
        self._weights[wanted.model] = self._catalog.read(wanted.model, settings, teller.stage)
        if plan.is_mapped:
            self._mapped.add(wanted.model)

    def forget_networks(self, model: str) -> None:
        """Drops what a released pipeline of the model left beside its weights, if these are here."""
        if model in self._weights:
            self._weights[model].forget_networks()

    def drop(self, model: str) -> None:
        """Lets the model's weights go, if they are here, and their host memory with them."""
        self._mapped.discard(model)
        weights = self._weights.pop(model, None)
        if weights is not None:
            weights.forget_networks()
            del weights
            self._memory.cleanup()

    def clear(self) -> None:
        """Lets all weights go."""
        for model in tuple(self._weights):
            self.drop(model)
