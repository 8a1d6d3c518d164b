"""How the store behaves with very many tasks: a SQLite database of them is built, asked and written to, and the times are told.

Writes are told as ratios too: to a bare commit with one fsync, measured in turn with them, since disks differ and other work disturbs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from admission.core.tasks import Event, Model, Task, TaskId, TaskState
from admission.store.port import Batch, EventQuery, Retention, TaskQuery, TaskSort
from admission.store.schema import IS_ENDED
from admission.store.sql import SqlStore

UNFINISHED = 10_000
EVENTS_PER_TASK = 2
PAGE_SIZE = 20
_ROUNDS = 30
_OWNERS = 1000
_FIRST_SECOND = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp())

# Ids in no order of time, as the ids of tasks are; one task a second; one in fifty failed, one in fifty was cancelled.
_TASKS = """
WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :end),
parts AS (
    SELECT n, printf('%08x%024x', n * 2654435761 % 4294967296, n) AS task_id,
        strftime('%Y-%m-%d %H:%M:%f', :second + n, 'unixepoch') || '000' AS at,
        CASE n % 3 WHEN 0 THEN 'phr00t' ELSE 'anisora' END AS model,
        256 + 64 * (n * 7 % 9) AS width, 256 + 64 * (n * 5 % 9) AS height,
        CASE WHEN :state IS NOT NULL THEN :state WHEN n % 50 = 0 THEN 'failed' WHEN n % 50 = 1 THEN 'cancelled' ELSE 'done' END AS state
    FROM numbers
)
INSERT INTO tasks (
    task_id, owner, request_id, fingerprint, model, mode, parameters, width, height, tokens, created_at, state, updated_at, queued_at,
    leased_at, attempt, lost_lanes, lane_mode, fallback_reason, lane_id, boot_id, is_withdrawn, progress, stage, stage_detail, failure,
    result
)
SELECT task_id, 'session-' || (n % :owners), NULL, hex(zeroblob(32)), model, 't2v',
    json_object('model', model, 'mode', 't2v', 'prompt', printf('%.*c', 120 + n % 200, 'p'), 'width', width, 'height', height, 'seed', n),
    width, height, 5120, at, state, at, at, at, 1, 0, 'dedicated', NULL, 'lane-' || model, 'boot', 0, 100, 'completed', '', NULL,
    CASE state WHEN 'done' THEN json_object('video_key', 'results/' || task_id, 'media_type', 'video/mp4', 'size_bytes', 1000000,
        'sha256', hex(zeroblob(32)),
        'preview_key', 'results/' || task_id, 'width', width, 'height', height, 'num_frames', 17, 'fps', 16) END
FROM parts
"""
_EVENTS = """
INSERT INTO events (sequence, task_id, event_type, created_at, value, reason, attempt, lane_id, model, memory, is_loose)
SELECT row_number() OVER (), task_id, event_type, created_at, '', '', 1, CASE event_type WHEN 'accepted' THEN NULL ELSE lane_id END, model,
    NULL, 0
FROM tasks, (SELECT 'accepted' AS event_type UNION ALL SELECT 'attempt_ended')
"""
_INDEXES = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"


async def build(path: Path, *, ended: int, unfinished: int) -> None:
    """Makes a database of so many tasks, with EVENTS_PER_TASK events each, as the store would have written them."""
    store = SqlStore(f"sqlite:///{path}")
    await store.open()
    await store.close()
    await asyncio.to_thread(_load, path, ended, unfinished)


def _load(path: Path, ended: int, unfinished: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        connection.execute("BEGIN")
        # Indexes are made faster in one go than row by row.
        indexes = connection.execute(_INDEXES).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        for first, end, state in ((0, ended, None), (ended, ended + unfinished, "queued")):
            if end > first:
                connection.execute(_TASKS, {"first": first, "end": end, "second": _FIRST_SECOND, "state": state, "owners": _OWNERS})
        connection.execute(_EVENTS)
        for _, definition in indexes:
            connection.execute(definition)
        connection.execute(f"INSERT INTO task_counts SELECT model, state, COUNT(*) FROM tasks WHERE {IS_ENDED} GROUP BY model, state")  # noqa: S608 - our own text
        connection.execute("UPDATE controller SET last_sequence = (SELECT MAX(sequence) FROM events)")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def measure(path: Path, *, ended: int) -> dict[str, dict[str, float]]:
    """Every figure: `p50_ms`, `p99_ms` and, of writes, the ratio of the medians to a bare commit's."""
    store = SqlStore(f"sqlite:///{path}")
    figures = {"open": summary([await timed(store.open)])}
    figures["unfinished"] = summary([await timed(store.unfinished) for _ in range(5)])
    ids = [task_id for (task_id,) in await asyncio.to_thread(_sample, path)]
    figures["status"] = summary([await timed(store.task, TaskId(task_id)) for task_id in ids])
    for query in pages(ended):
        of = "".join(f" of {one}" for one in (query.model, query.owner) if one)
        name = f"page {query.page} by {query.sort}{of}{'' if query.states else ', any state'}"
        figures[name] = summary([await timed(store.page, query) for _ in range(_ROUNDS)])
    rare = EventQuery(event_types=frozenset({"lane_lost", "queue_overloaded"}))
    for name, found in {"events of a task": EventQuery(task_id=TaskId(ids[0])), "rare events": rare, "first events": EventQuery()}.items():
        figures[name] = summary([await timed(store.events, found) for _ in range(_ROUNDS)])
    figures |= await _measure_writes(store, path)
    await store.close()
    return figures


def pages(ended: int) -> list[TaskQuery]:
    """Pages of done tasks in every order: 1st to last of all models and of one, the 1st of an owner; a few of all states."""
    done = frozenset({TaskState.DONE})
    queries = []
    for model, tasks in ((None, ended * 48 // 50), ("anisora", ended * 32 // 50)):
        last = max(1, tasks // PAGE_SIZE)
        for number in sorted({1, min(10, last), min(1000, last), last // 2 or 1, last}):
            queries += [TaskQuery(page=number, page_size=PAGE_SIZE, sort=sort, model=model, states=done) for sort in TaskSort]
    # Of a thousand owners; in a private gallery everyone sees their own.
    last = max(1, ended // _OWNERS // PAGE_SIZE)
    for model in (None, "anisora"):
        queries += [TaskQuery(page_size=PAGE_SIZE, sort=sort, model=model, owner="session-7", states=done) for sort in TaskSort]
    queries.append(TaskQuery(page=last, page_size=PAGE_SIZE, owner="session-7", states=done))
    last = max(1, ended // PAGE_SIZE)
    return queries + [TaskQuery(page=number, page_size=PAGE_SIZE) for number in (1, min(1000, last), last)]


async def _measure_writes(store: SqlStore, path: Path) -> dict[str, dict[str, float]]:
    """New tasks with one event each, in turn with bare commits in a database of their own beside it; then retention."""
    epoch = await store.claim_epoch()
    taken: dict[str, list[float]] = {"bare commit": [], "write of 1": [], "write of 64": [], "progress of 1": []}
    with closing(sqlite3.connect(path.with_name("bare.db"), isolation_level=None, check_same_thread=False)) as bare:
        bare.execute("PRAGMA journal_mode = WAL")
        bare.execute("PRAGMA synchronous = FULL")
        bare.execute("CREATE TABLE rows (content TEXT)")
        for _ in range(10 * _ROUNDS):
            taken["bare commit"].append(_commit(bare))
            one = _new(1)
            taken["write of 1"].append(await timed(store.write, epoch, one))
            taken["write of 64"].append(await timed(store.write, epoch, _new(64)))
            taken["progress of 1"].append(await timed(store.write, epoch, Batch(tasks=one.tasks)))
    base = summary(taken["bare commit"])["p50_ms"]
    figures = {name: summary(times) for name, times in taken.items()}
    for figure in figures.values():
        figure["to_bare_commit"] = round(figure["p50_ms"] / base, 2)
    soon = datetime.fromtimestamp(_FIRST_SECOND + 10**9, UTC)
    retention = Retention(tasks_before=dict.fromkeys((TaskState.DONE, TaskState.FAILED), soon), events_before=soon)
    figures[f"prune of {retention.limit}"] = summary([await timed(store.prune, epoch, retention) for _ in range(_ROUNDS)])
    return figures


def _commit(connection: sqlite3.Connection) -> float:
    began_s = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO rows VALUES ('a row')")
    connection.execute("COMMIT")
    return time.perf_counter() - began_s


def _new(count: int) -> Batch:
    now = datetime.now(UTC)
    parameters = {"prompt": "p" * 200, "width": 512, "height": 512, "num_frames": 17, "seed": 7}
    tasks = [
        Task(
            task_id=TaskId(uuid4().hex), owner="session-1", model=Model("anisora"), mode="t2v", parameters=parameters, tokens=5120,
            state=TaskState.QUEUED, created_at=now, updated_at=now, queued_at=now,
        )
        for _ in range(count)
    ]  # fmt: skip
    return Batch(
        tasks=tasks, events=[Event(event_type="accepted", created_at=now, task_id=task.task_id, model=task.model) for task in tasks]
    )


def _sample(path: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(path)) as connection:
        last = connection.execute("SELECT MAX(rowid) FROM tasks").fetchone()[0]
        chosen = random.Random(1).sample(range(1, last + 1), min(2000, last))  # noqa: S311 - a sample, not a secret
        return connection.execute(
            "SELECT task_id FROM tasks WHERE rowid IN (SELECT value FROM json_each(?))", (json.dumps(chosen),)
        ).fetchall()


async def timed(call: Callable[..., Awaitable[object]], *arguments: object) -> float:
    """Seconds that the call took."""
    began_s = time.perf_counter()
    await call(*arguments)
    return time.perf_counter() - began_s


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    ordered = sorted(seconds)
    return {
        name: round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000, 3)
        for name, part in (("p50_ms", 0.5), ("p99_ms", 0.99))
    }


async def run(tasks: int, unfinished: int) -> dict[str, dict[str, float]]:
    """Builds the database in a temporary folder and measures."""
    with tempfile.TemporaryDirectory(prefix="warmlane-store-") as folder:
        path = Path(folder) / "store.db"
        began_s = time.perf_counter()
        await build(path, ended=tasks, unfinished=unfinished)
        print(f"built in {time.perf_counter() - began_s:.1f} s, {path.stat().st_size / 2**20:.0f} MiB")
        return await measure(path, ended=tasks)


def main() -> None:
    """Prints a line per figure; `--json` writes them to a file too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000, help="ended tasks")
    parser.add_argument("--unfinished", type=int, default=UNFINISHED, help="queued tasks beside them")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.tasks, arguments.unfinished))
    for name, figure in figures.items():
        print(f"{name:45}", "  ".join(f"{key} {value:9.3f}" for key, value in figure.items()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"tasks": arguments.tasks, "unfinished": arguments.unfinished, "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
