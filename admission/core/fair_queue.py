"""One model's queue: first come, first served for each caller, and callers take turns."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

from admission.core.tasks import TaskId


class FairQueue:
    """Task ids in the order in which lanes will take them. Tasks put at the head (they lost their lane) go before all others."""

    def __init__(self) -> None:
        """Empty."""
        self._head: deque[TaskId] = deque()
        self._by_owner: OrderedDict[str, deque[TaskId]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        """How many wait."""
        return self._size

    def __iter__(self) -> Iterator[TaskId]:
        """In the order in which they would be taken if nothing more came."""
        yield from self._head
        turns = [list(waiting) for waiting in self._by_owner.values()]
        for turn in range(max(map(len, turns), default=0)):
            for waiting in turns:
                if turn < len(waiting):
                    yield waiting[turn]

    def push(self, task_id: TaskId, owner: str) -> None:
        """Joins behind the owner's other tasks."""
        self._by_owner.setdefault(owner, deque()).append(task_id)
        self._size += 1

    def push_head(self, task_id: TaskId) -> None:
        """Goes before everything."""
        self._head.appendleft(task_id)
        self._size += 1

    def peek(self) -> TaskId | None:
        """Whose turn it is."""
        return next(iter(self), None) if self._head or not self._by_owner else next(iter(self._by_owner.values()))[0]

    def first(self, is_good: Callable[[TaskId], bool]) -> TaskId | None:
        """The task whose turn it would be if only the good ones waited: an owner's later task may go where its first one does not fit."""
        found = next(filter(is_good, self._head), None)
        for waiting in self._by_owner.values():
            if found is not None:
                break
            found = next(filter(is_good, waiting), None)
        return found

    def take(self, task_id: TaskId, owner: str, *, is_turn: bool) -> None:
        """Removes a task that a lane took. If it was its owner's turn, or is one (`is_turn`) because what comes before it did not fit, the
        turn passes on; one that stood before all others is nobody's turn."""
        first_owner = next(iter(self._by_owner), None)
        is_turn = first_owner == owner or (is_turn and task_id not in self._head)
        self.remove(task_id, owner)
        if is_turn and owner in self._by_owner:
            self._by_owner.move_to_end(owner)

    def remove(self, task_id: TaskId, owner: str) -> None:
        """Removes a task wherever it stands; KeyError when it is not there."""
        if task_id in self._head:
            self._head.remove(task_id)
        else:
            waiting = self._by_owner[owner]
            try:
                waiting.remove(task_id)
            except ValueError as error:
                raise KeyError(task_id) from error
            if not waiting:
                del self._by_owner[owner]
        self._size -= 1
