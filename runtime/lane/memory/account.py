"""The account of a device that has no allocator of its own: what tensors are alive, at most, and within a limit."""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_COMPOSITE_NAME = "CompositeImplicitAutograd"
# `torch.tensor` fills a tensor beneath the dispatcher and shows it by this, so that what goes in was not seen before.
_FRESH = torch.ops.aten.lift_fresh.default


class _Watch(weakref.ref[torch.UntypedStorage]):
    """A storage of the account: it does not keep it alive."""

    __slots__ = ("key", "size_bytes")

    key: int
    size_bytes: int


class TensorAccount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are made within it and still alive, each once, and keeps them within a limit.

    Views and work in place are free, as on a GPU; so are views of storages that were made elsewhere. A storage counts until its last
    tensor is gone, also after the account was left. Enter it as often as needed, in one thread at a time. It works on real tensors,
    and on those of the meta device or of a `FakeTensorMode` entered before, where the same figures come from no memory at all.

    What an operation needs within itself is not seen, nor what never passes the dispatcher: `copy.deepcopy` and `untyped_storage().resize_`
    (seen at the next operation that returns a tensor of it).
    """

    def __init__(self, *, limit_bytes: int | None = None, counts_meta: bool = False) -> None:
        """An empty account.

        Args:
            limit_bytes: what may be alive at once; None: anything.
            counts_meta: tensors on the meta device count as if they were real.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._limit_bytes = limit_bytes
        self._counts_meta = counts_meta
        self._alive: dict[int, _Watch] = {}
        self._dead: deque[_Watch] = deque()  # appended by the collector, in whichever thread it runs; taken by the owner
        self._live_bytes = 0
        self._peak_bytes = 0
        self._is_ignoring = False

    @property
    def limit_bytes(self) -> int | None:
        """What may be alive at once."""
        return self._limit_bytes

    @property
    def live_bytes(self) -> int:
        """Of the storages alive now."""
        self._strike_dead()
        return self._live_bytes

    @property
    def peak_bytes(self) -> int:
        """The most that was alive at once since `reset_peak`; never above the limit."""
        return self._peak_bytes

    def reset_peak(self) -> None:
        """The peak counts from what is alive now."""
        self._peak_bytes = self.live_bytes

    @contextmanager
    def ignoring(self) -> Iterator[None]:
        """Within it, what is made does not count."""
        was_ignoring, self._is_ignoring = self._is_ignoring, True
        try:
            yield
        finally:
            self._is_ignoring = was_ignoring

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and torch's guard against it would import its compiler and take a third of the time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Runs the operation, then counts what it made.

        Raises:
            torch.OutOfMemoryError: it made more than the limit has room for; its results are dropped and do not count.
        """
        kwargs = kwargs or {}
        if self._is_ignoring:
            return func(*args, **kwargs)
        if _is_composite(func):
            # Under inference mode these come whole. Taken apart by the same kernel that would run anyway, their parts are seen.
            with self:
                return func._op_dk(_COMPOSITE, *args, **kwargs)
        result = func(*args, **kwargs)
        missing_bytes = self._count(result, args, kwargs) if func is not _FRESH else self._count(result, (), {})
        if missing_bytes:
            # The exception keeps this frame: nothing in it may keep tensors.
            del result, args, kwargs
            raise torch.OutOfMemoryError(self._message(missing_bytes))
        return result

    def _count(self, result: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Takes new storages into the account; or none of them, and returns their bytes, if they do not fit."""
        self._strike_dead()
        found: dict[int, torch.UntypedStorage] = {}
        new_bytes = 0
        for tensor in _tensors(result):
            if (tensor.is_meta and not self._counts_meta) or tensor.layout is not torch.strided:
                continue
            storage = tensor.untyped_storage()
            key, size_bytes = storage._cdata, storage.nbytes()
            watch = self._alive.get(key)
            if watch is not None:
                size_bytes -= watch.size_bytes  # it was resized, if that is not zero
            elif key in found or _holds(args, key) or (kwargs and _holds(kwargs.values(), key)):
                continue
            if watch is None or size_bytes:
                found[key] = storage
                new_bytes += size_bytes
        if not found:
            return 0
        if self._limit_bytes is not None and new_bytes > 0 and self._live_bytes + new_bytes > self._limit_bytes:
            return new_bytes
        for key, storage in found.items():
            self._enter(key, storage)
        self._live_bytes += new_bytes
        self._peak_bytes = max(self._peak_bytes, self._live_bytes)
        return 0

    def _enter(self, key: int, storage: torch.UntypedStorage) -> None:
        watch = self._alive.get(key)
        if watch is None:
            watch = _Watch(storage, self._dead.append)
            watch.key = key
            self._alive[key] = watch
        watch.size_bytes = storage.nbytes()

    def _strike_dead(self) -> None:
        # Before anything is looked up: the key of a storage may be that of a dead one.
        while self._dead:
            watch = self._dead.popleft()
            del self._alive[watch.key]
            self._live_bytes -= watch.size_bytes

    def _message(self, missing_bytes: int) -> str:
        limit_bytes = self._limit_bytes or 0
        free, live, peak = (_readable(size) for size in (limit_bytes - self._live_bytes, self._live_bytes, self._peak_bytes))
        return (
            f"out of memory. Tried to allocate {_readable(missing_bytes)}. The device has a total capacity of {_readable(limit_bytes)} "
            f"of which {free} is free. {live} is allocated by tensors, at most {peak} since the last reset "
            f"(in bytes: {missing_bytes} asked, {self._live_bytes} of {limit_bytes} in use)."
        )


@cache
def _is_composite(func: Any) -> bool:
    """Whether the operation is nothing but others on every device, by a kernel of torch's own; those others see the account by themselves.

    Some have a second kernel, in Python, for tracing (`py_kernels`): it is slower and makes more. Those stay whole.
    """
    if not isinstance(func, torch._ops.OpOverload) or func.namespace != "aten" or _COMPOSITE in func.py_kernels:
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE))  # type: ignore[no-untyped-call]


def _tensors(value: object) -> list[torch.Tensor]:
    """The tensors in the results of an operation."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for element in value for tensor in _tensors(element)] if isinstance(value, tuple | list) else []


def _holds(inputs: Iterable[Any], key: int) -> bool:
    """Whether a storage is among those that an operation was given."""
    for value in inputs:
        if isinstance(value, torch.Tensor):
            if value.layout is torch.strided and value.untyped_storage()._cdata == key:
                return True
        elif isinstance(value, torch.UntypedStorage):  # of `set_`
            if value._cdata == key:
                return True
        elif isinstance(value, tuple | list) and _holds(value, key):
            return True
    return False


def _readable(size_bytes: int) -> str:
    """Bytes as torch's own messages write them."""
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.2f} MiB"
