"""What the models of a process cost on its device: measured once at the start, before anything is loaded, and reported to admission."""

from __future__ import annotations

import structlog

from runtime.fit.cost import ModelLadder, WorkerMemory
from runtime.lane.renderer import Catalog, LoadSettings
from runtime.lane.residency import HeldWeights

_log = structlog.get_logger()


class Ladders:
    """The ladders of a catalog's models. A model whose files are not there has none yet, and is asked for again when it is needed."""

    def __init__(self, catalog: Catalog, settings: LoadSettings) -> None:
        """Reads nothing yet."""
        self._catalog = catalog
        self._settings = settings
        self._known: dict[str, ModelLadder] = {}

    def measure(self) -> WorkerMemory:
        """The device's limits and every ladder that can be told; one that cannot is left out, and the log says why.

        Raises what the device raises when it does not answer.
        """
        limits = self._settings.memory.limits()
        for model in self._catalog.models():
            try:
                self.of(model)
            except Exception as error:
                # A pool still serves its other model; the attempt or the warm-up that needs this one says what is wrong.
                _log.warning("ladder_unknown", model=model, error=type(error).__name__, reason=str(error))
        return WorkerMemory(limits=limits, ladders=tuple(self._known.values()))

    def of(self, model: str) -> ModelLadder:
        """The ladder of a model; raises what the catalog raises when it cannot tell."""
        if model not in self._known:
            self._known[model] = self._catalog.ladder(model, self._settings)
        return self._known[model]

    def weights_of(self, model: str) -> HeldWeights:
        """What the model's weights take in host memory when all of them are there; raises what the catalog raises when it cannot tell."""
        rungs = self.of(model).rungs
        return HeldWeights(
            model=model,
            host_bytes=max((rung.host_bytes for rung in rungs), default=0),
            pinned_bytes=max((rung.pinned_bytes for rung in rungs), default=0),
        )
