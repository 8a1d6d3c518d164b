"""Where a pipeline's weights are while it works: host memory always has them all, the device has copies of what the placement says."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from runtime.fit.placement import Weights
from runtime.lane.wan.forwards import replaced_forwards
from runtime.lane.wan.parts import blocks_of_part
from runtime.lane.wan.skeleton import as_parameters, point_at, sites_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from runtime.lane.memory.port import DeviceMemory
    from runtime.lane.wan.skeleton import Site
    from runtime.lane.wan.weights import GroupWeights


class Group:
    """The tensors of one block, or of the rest of a part: their home in host memory, and their places in the network."""

    def __init__(self, weights: GroupWeights, sites: Mapping[str, list[Site]]) -> None:
        """Points the network at the weights in host memory."""
        self._weights = weights
        self._sites = {stored.name: sites[stored.name] for stored in weights.layout.tensors}
        # Made once: within a render, a budget would take views of host memory for tensors of the device.
        self._home = as_parameters(weights.tensors())
        self.go_home()

    @property
    def path(self) -> str:
        """Of the block in its part; empty for the rest."""
        return self._weights.layout.path

    @property
    def size_bytes(self) -> int:
        """On the device."""
        return self._weights.layout.size_bytes

    @property
    def tensor_bytes(self) -> int:
        """Of the tensors, without the gaps between them."""
        return sum(stored.size_bytes for stored in self._weights.layout.tensors)

    def begin_copy(self, memory: DeviceMemory, buffer: torch.Tensor) -> list[object]:
        """Starts to copy the weights into a buffer on the device; returns tickets."""
        return [
            memory.begin_copy(piece, buffer[offset : offset + piece.numel()]) for offset, piece in self._weights.pieces if piece.numel() > 0
        ]

    def go_to(self, buffer: torch.Tensor) -> None:
        """Points the network at the copies in a buffer."""
        point_at(self._sites, as_parameters({stored.name: stored.view(buffer) for stored in self._weights.layout.tensors}))

    def go_home(self) -> None:
        """Points the network at host memory."""
        point_at(self._sites, self._home)

    def forget(self) -> None:
        """Takes the weights from the network for good."""
        for sites in self._sites.values():
            for site in sites:
                site.entries[site.name] = None
        self._home = {}


class PlacedPart:
    """One network with its groups."""

    def __init__(self, name: str, module: torch.nn.Module, weights: Sequence[GroupWeights]) -> None:
        """Points the network at its weights in host memory; every tensor of it must be among them."""
        self.name = name
        self.module = module
        sites = sites_of(module)
        self.rest, *self.blocks = (Group(group, sites) for group in weights)
        self.block_modules = blocks_of_part(name, module)
        if len(self.blocks) != len(self.block_modules):
            msg = f"{name} has {len(self.block_modules)} blocks, and weights for {len(self.blocks)}"
            raise ValueError(msg)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The rest, then the blocks in running order."""
        return (self.rest, *self.blocks)

    def forget(self) -> None:
        """Takes the weights from the network for good."""
        for group in self.groups:
            group.forget()


class Placer:
    """Carries out placements, through the device's memory only. One thread uses it."""

    def __init__(self, memory: DeviceMemory, parts: Mapping[str, PlacedPart]) -> None:
        """Nothing is on the device yet."""
        self._memory = memory
        self._parts = dict(parts)
        self._weights = Weights.WORKING
        self._resident: list[torch.Tensor] = []
        self._is_working = False

    @property
    def tensor_bytes(self) -> int:
        """Of all weights, each counted once, wherever they lie."""
        return sum(group.tensor_bytes for part in self._parts.values() for group in part.groups)

    def set_weights(self, weights: Weights, on_load: Callable[[], None]) -> None:
        """From here on, weights lie so. Loads or drops what stays on the device between renders.

        Args:
            weights: what the next contexts do.
            on_load: called before anything is loaded that stays.
        """
        if weights is not Weights.ALL:
            self._drop_all()
        elif not self._resident:
            on_load()
            try:
                self._resident = [buffer for part in self._parts.values() for buffer in _load(self._memory, part.groups)]
            except BaseException:
                self._drop_all()
                raise
        self._weights = weights

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Within it a part is on the device, whole; afterwards its copy is gone (but where all parts stay)."""
        with self._alone():
            if self._weights is Weights.ALL:
                yield
                return
            part, buffers = self._parts[name], list[torch.Tensor]()
            try:
                buffers += _load(self._memory, part.groups)
                yield
            finally:
                _drop(part.groups, buffers)

    @contextmanager
    def passing(self, passes: Sequence[str]) -> Iterator[None]:
        """Within it networks run, each forward pass with its part on the device, whole or streamed; afterwards nothing is left there.

        Args:
            passes: the part of each forward pass to come, in order. Should others run, it is slower and nothing else.
        """
        with self._alone():
            if self._weights is Weights.ALL:
                yield
                return
            shift = _Shift(self._memory, [self._parts[name] for name in passes], is_streamed=self._weights is Weights.STREAMED)
            try:
                with replaced_forwards(shift.replacements()):
                    yield
            finally:
                shift.end()

    def release(self, *, keeps_weights: bool = False) -> None:
        """Drops what is on the device, and takes the weights from the networks unless these are kept for another pipeline."""
        self._drop_all()
        if not keeps_weights:
            for part in self._parts.values():
                part.forget()
        self._parts.clear()

    def _drop_all(self) -> None:
        _drop([group for part in self._parts.values() for group in part.groups], self._resident)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._is_working:
            msg = "one part works at a time"
            raise RuntimeError(msg)
        self._is_working = True
        try:
            yield
        finally:
            self._is_working = False


class _Shift:
    """The passes of one phase: which part is on the device, and which block comes next. One part at a time, so experts take turns."""

    def __init__(self, memory: DeviceMemory, passes: Sequence[PlacedPart], *, is_streamed: bool) -> None:
        self._memory = memory
        self._parts = {part.name: part for part in passes}
        self._is_streamed = is_streamed
        self._part: PlacedPart | None = None
        self._buffers: list[torch.Tensor] = []
        self._stream = _BlockStream(memory, [group for part in passes for group in part.blocks]) if is_streamed else None

    def replacements(self) -> list[tuple[torch.nn.Module, Callable[..., Any]]]:
        """The forward passes with the care for their weights around them."""
        found: list[tuple[torch.nn.Module, Callable[..., Any]]] = []
        for part in self._parts.values():
            found.append((part.module, partial(self._run_part, part, part.module.forward)))
            if self._is_streamed:
                pairs = zip(part.block_modules, part.blocks, strict=True)
                found += [(module, partial(self._run_block, group, module.forward)) for module, group in pairs]
        return found

    def end(self) -> None:
        """Drops everything."""
        if self._stream is not None:
            self._stream.end()
        self._drop_part()
        self._parts.clear()

    def _run_part(self, part: PlacedPart, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        if self._part is not part:
            self._drop_part()
            self._part = part
            self._buffers += _load(self._memory, (part.rest,) if self._is_streamed else part.groups)
        return forward(*inputs, **named)

    def _run_block(self, group: Group, forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        if self._stream is not None:
            self._stream.bring(group)
        return forward(*inputs, **named)

    def _drop_part(self) -> None:
        if self._part is not None:
            _drop(self._part.groups, self._buffers)
            self._part = None


class _BlockStream:
    """Two slots on the device, each for any block: in one a block works, into the other the next one comes meanwhile."""

    def __init__(self, memory: DeviceMemory, order: Sequence[Group]) -> None:
        self._memory = memory
        self._order = iter(order)
        self._slot_bytes = max((group.size_bytes for group in order), default=0)
        self._slots: list[torch.Tensor] = []  # the one at work first
        self._at_work: Group | None = None
        self._coming: Group | None = next(self._order, None)
        self._tickets: list[object] = []

    def bring(self, group: Group) -> None:
        """Brings a block to the device, in most cases long on its way, and sends for the one after it."""
        if not self._slots:
            self._slots += [self._memory.allocate(self._slot_bytes) for _ in range(2)]
        self._leave()
        if self._coming is not group or not self._tickets:
            self._finish()
            self._tickets = group.begin_copy(self._memory, self._slots[1])
        self._finish()
        self._slots.reverse()
        self._at_work = group
        group.go_to(self._slots[0])
        if self._coming is group:
            self._coming = next(self._order, None)
        if self._coming is not None:
            # Its slot was the last block's, whose work the device has been given: the copy waits for that, not for what is given now.
            self._tickets = self._coming.begin_copy(self._memory, self._slots[1])

    def end(self) -> None:
        """Drops the slots. A copy may be under way into one, so what the device is given from here on waits for it."""
        self._leave()
        with suppress(RuntimeError):  # a device that failed says so at every call, and that error is on its way already
            self._finish()
        self._tickets.clear()
        self._slots.clear()
        self._coming, self._order = None, iter(())

    def _leave(self) -> None:
        if self._at_work is not None:
            self._at_work.go_home()
            self._at_work = None

    def _finish(self) -> None:
        while self._tickets:
            self._memory.finish_copy(self._tickets.pop())


def _load(memory: DeviceMemory, groups: Sequence[Group]) -> list[torch.Tensor]:
    """Copies groups to the device and points the network at them. The caller drops them, also when this raises."""
    buffers: list[torch.Tensor] = []
    tickets: list[object] = []
    try:
        for group in groups:
            buffers.append(memory.allocate(group.size_bytes))
            tickets += group.begin_copy(memory, buffers[-1])
    finally:
        for ticket in tickets:
            memory.finish_copy(ticket)
    for group, buffer in zip(groups, buffers, strict=True):
        group.go_to(buffer)
    return buffers


def _drop(groups: Sequence[Group], buffers: list[torch.Tensor]) -> None:
    """Drops the copies. Nothing is copied back: weights do not change."""
    for group in groups:
        group.go_home()
    buffers.clear()
