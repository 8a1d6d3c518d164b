"""What `warmlane plan` prints for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from command_line.plan_rows import Row
from runtime.fit.cost import DeviceLimits, Rung, Shape
from runtime.fit.gpus import assumptions
from runtime.fit.host import HostRoom, host_room
from runtime.fit.predict import explain, peak_bytes
from runtime.fit.traced import TracedModel
from runtime.rules.catalogue import MODELS

_GIB = 1024**3
_TIME_NOTE = (
    "time: calculated, not measured: denoising at the GPU's peak, one pass a step (Phr00t Mega v12 takes 7 passes for its 4 steps); "
    "a render takes longer. Admission learns real times from the lanes, and refuses nobody for them before."
)


def print_rows(console: Console, rows: Sequence[Row], limits: DeviceLimits, storage: str) -> None:
    """One line a request; modes that come to the same share one."""
    table = _table("model", "mode", "size", "frames", "placement", "peak GiB", "weights in host memory", "time", "verdict", right=(3, 5))
    for group in _same(rows):
        row = group[0]
        table.add_row(
            row.model,
            _modes(group),
            f"{row.shape.width}x{row.shape.height}",
            str(row.shape.num_frames),
            "-" if row.choice is None else row.choice.rung.placement,
            _gib(row.least_peak_bytes if row.choice is None else row.choice.peak_bytes),
            "-" if row.choice is None else _host(row.choice.rung, limits),
            "-" if row.least_s is None else f"over {_duration(row.least_s)}",
            _verdict(row, limits),
        )
    console.print(table)
    _print_budget(console, limits, storage)
    _line(console, _TIME_NOTE)


def print_explanations(console: Console, models: Iterable[tuple[TracedModel, Shape]], limits: DeviceLimits, storage: str) -> None:
    """Every phase of every placement, as a sum."""
    for traced, shape in models:
        _line(console, f"{traced.model} {shape.mode} {shape.width}x{shape.height}, {shape.num_frames} frames: {shape.tokens} latent tokens")
        for part in traced.parts[storage].parts:
            streamed = (
                f"; streamed {_gib(part.streamed_bytes)}: two of its {len(part.block_bytes)} blocks, and the rest"
                if part.block_bytes
                else ""
            )
            _line(console, f"  {part.name}: {_gib(part.total_bytes)} GiB{streamed}")
        table = _table(
            "placement", "phase", "weights", "+ fixed", "+ tokens", "+ pixels", "= peak", "+ margin", "of GiB", "verdict", right=range(2, 9)
        )
        for rung in traced.ladder(storage).rungs:
            _add_rung(table, rung, shape, limits)
        console.print(table)
        for rung in traced.ladder(storage).rungs:
            _line(console, f"  {rung.placement}: in host memory {_host(rung, limits)}")
        console.print()
    _print_budget(console, limits, storage)


def _add_rung(table: Table, rung: Rung, shape: Shape, limits: DeviceLimits) -> None:
    highest = peak_bytes(rung, shape)
    for phase in explain(rung, shape):
        sums = (phase.weights_bytes, phase.fixed_bytes, phase.token_bytes, phase.pixel_bytes, phase.peak_bytes)
        verdict = "fits" if phase.peak_bytes <= limits.budget_bytes else "too much"
        table.add_row(
            rung.placement,
            phase.phase,
            *(_gib(size) for size in sums),
            _gib(limits.margin_bytes),
            _gib(limits.total_bytes - limits.other_bytes),
            verdict + (", the peak" if phase.peak_bytes == highest else ""),
        )


def _verdict(row: Row, limits: DeviceLimits) -> str:
    if row.choice is not None:
        return f"fits, {_gib(limits.budget_bytes - row.choice.peak_bytes)} GiB to spare"
    fitting = []
    if row.largest_frames:
        fitting.append(f"{row.largest_frames} frames at this size")
    if row.largest_size is not None:
        fitting.append(f"{row.largest_size[0]}x{row.largest_size[1]} at these frames")
    return f"does not fit; would fit: {' or '.join(fitting) or 'nothing of this size or length'}"


def _same(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows of one request that differ in nothing but the mode, together."""

    def request(row: Row) -> tuple[object, ...]:
        return row.model, row.shape.width, row.shape.height, row.shape.num_frames

    groups: list[list[Row]] = []
    for _request, modes in groupby(rows, key=request):
        by_result: dict[object, list[Row]] = {}
        for row in modes:
            placement = None if row.choice is None else row.choice.rung.placement
            peak = row.least_peak_bytes if row.choice is None else row.choice.peak_bytes
            by_result.setdefault((placement, peak, row.largest_frames, row.largest_size), []).append(row)
        groups.extend(by_result.values())
    return groups


def _modes(group: Sequence[Row]) -> str:
    modes = [row.shape.mode for row in group]
    return "all" if len(modes) > 1 and tuple(modes) == MODELS[group[0].model].modes else ", ".join(modes)


def _host(rung: Rung, limits: DeviceLimits) -> str:
    told = f"{_gib(rung.host_bytes)} of {_gib(limits.host_bytes)} GiB"
    match host_room(rung, limits):
        case HostRoom.MAPPED:
            return f"{told}: mapped from disk, slower"
        case HostRoom.PAGED:
            return f"{told}, {_gib(limits.pinned_limit_bytes)} pinned"
        case HostRoom.PINNED:
            return f"{told}, {_gib(rung.pinned_bytes)} pinned"


def _print_budget(console: Console, limits: DeviceLimits, storage: str) -> None:
    _line(
        console,
        f"{limits.gpu}, {storage} weights: {_gib(limits.total_bytes)} GiB that torch sees - {_gib(limits.other_bytes)} other"
        f" - {_gib(limits.margin_bytes)} margin = {_gib(limits.budget_bytes)} GiB budget",
    )
    for name, reason in assumptions(limits).items():
        _line(console, f"{name}: {reason}")


def _table(*headings: str, right: Iterable[int] = ()) -> Table:
    """Every column as wide as its content, the last one folded where the terminal ends."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    aligned = set(right)
    for number, heading in enumerate(headings):
        is_last = number == len(headings) - 1
        table.add_column(heading, no_wrap=not is_last, overflow="fold", justify="right" if number in aligned else "left")
    return table


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / _GIB:.2f}"


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
