"""Finds one page of tasks without passing over what no page needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Connection, Select, asc, desc, func, select, text, union_all

from admission.store import rows
from admission.store.port import TaskPage, TaskQuery, TaskSort
from admission.store.schema import IS_ENDED, IS_UNFINISHED, TASK_COUNTS, TASKS


def read_page(connection: Connection, query: TaskQuery) -> TaskPage:
    """The page and the total, of the connection's state.

    Raises:
        ValueError: there is no such page.
    """
    first = rows.first_index(query)
    counts = _counts(connection, query)
    total = sum(counts.values())
    length = min(query.page_size, total - first)
    if length <= 0:
        return TaskPage(tasks=(), total=total)
    # From the nearer end: the last page costs what the first one costs.
    is_reversed = first > total // 2
    skipped = total - first - length if is_reversed else first
    ids = list(connection.execute(_ids(query, frozenset(counts), is_reversed=is_reversed).offset(skipped).limit(length)).scalars())
    if is_reversed:
        ids.reverse()
    found = {row.task_id: rows.task_of(row) for row in connection.execute(select(TASKS).where(TASKS.c.task_id.in_(ids)))}
    return TaskPage(tasks=tuple(found[task_id] for task_id in ids), total=total)


def _counts(connection: Connection, query: TaskQuery) -> dict[str, int]:
    """How many tasks match, by state; only states that have some."""
    unfinished = _matching(query, select(TASKS.c.state, func.count()).where(text(IS_UNFINISHED)).group_by(TASKS.c.state))
    if query.owner is None:
        ended = select(TASK_COUNTS.c.state, func.sum(TASK_COUNTS.c.tasks)).group_by(TASK_COUNTS.c.state)
        if query.model is not None:
            ended = ended.where(TASK_COUNTS.c.model == query.model)
    else:
        # No counts are kept by owner: there would be a row for every session that ever was.
        ended = _matching(query, select(TASKS.c.state, func.count()).where(text(IS_ENDED)).group_by(TASKS.c.state))
    counts = dict(connection.execute(ended).all())
    if not query.states or query.states.intersection(rows.UNFINISHED):
        counts |= dict(connection.execute(unfinished).all())
    return {state: int(tasks) for state, tasks in counts.items() if tasks and (not query.states or state in query.states)}


def _matching(query: TaskQuery, tasks: Select[Any]) -> Select[Any]:
    """Those of the tasks that the page is about, but for their states."""
    if query.model is not None:
        tasks = tasks.where(TASKS.c.model == query.model)
    if query.owner is not None:
        tasks = tasks.where(TASKS.c.owner == query.owner)
    return tasks


def _ids(query: TaskQuery, states: frozenset[str], *, is_reversed: bool) -> Select[Any] | CompoundSelect[Any]:
    """The ids in their order. Each part comes out of an index in that order, and the engine merges them as it goes."""
    first, *others = _parts(query, states)
    found: Select[Any] | CompoundSelect[Any] = union_all(first, *others) if others else first
    if is_reversed:
        return found.order_by(asc("value"), desc("task_id"))
    return found.order_by(desc("value"), asc("task_id"))


def _value(query: TaskQuery) -> ColumnElement[Any]:
    """What is sorted by."""
    column = TASKS.c[query.sort.value]
    if query.owner is None or query.sort is TaskSort.CREATED_AT:
        return column
    # A value that no index has: else the engine would rather walk through everyone's tasks in this order than sort the owner's few.
    return column.concat("") if query.sort is TaskSort.MODEL else column + 0


def _parts(query: TaskQuery, states: frozenset[str]) -> Iterator[Select[Any]]:
    every = _matching(query, select(TASKS.c.task_id, _value(query).label("value")))
    for state in sorted(states.intersection(rows.ENDED)):
        yield every.where(text(IS_ENDED), TASKS.c.state == state)
    unfinished = sorted(states.intersection(rows.UNFINISHED))
    if unfinished:
        # They are few: sorted when asked for.
        yield every.where(text(IS_UNFINISHED), TASKS.c.state.in_(unfinished))
