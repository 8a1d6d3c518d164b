"""How a preparation is shown: what will be read and written, then a bar with bytes and rate on a terminal, plain lines anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from runtime.preparation import Checked, Event, Finished, Note, Planned, Stage
from runtime.preparation import Progress as ProgressEvent

_TITLES = {
    Stage.DOWNLOAD: "downloading",
    Stage.HASH: "hashing the sources",
    Stage.WRITE: "writing the weights",
    Stage.VERIFY: "reading them again",
}
_MIB = 1024**2


class PrepareScreen:
    """Shows one run. Use as a context manager."""

    def __init__(self, console: Console, *, visible: bool = True) -> None:
        """Shows on the console, or nothing at all."""
        self._console = console
        self._visible = visible
        self._bar: Progress | None = None
        self._stage: tuple[Stage, int] | None = None

    def __enter__(self) -> PrepareScreen:
        """Begins; the bar is drawn on a terminal only."""
        if self._console.is_terminal and self._visible:
            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def show(self, event: Event) -> None:
        """Shows one event; how a run failed is the caller's to tell."""
        match event:
            case Planned():
                self._show_plan(event)
            case ProgressEvent():
                self._show_progress(event)
            case Note():
                self._line(event.text)
            case Finished():
                self._show_finished(event)
            case Checked():
                self._show_checked(event)
            case _:
                pass

    def _show_plan(self, plan: Planned) -> None:
        sizes = "" if plan.sizes == "published" else f", sizes {plan.sizes!r}: not the published model"
        self._line(f"{plan.model} {plan.variant}, stored as {plan.storage.value}{sizes}")
        sources = _table("source", "file", "size", "licence", "from", right=(2,))
        for source in plan.sources:
            sources.add_row(source.source, source.file, _size(source.size_bytes), source.licence, source.origin)
        parts = _table("part", "tensors", "copied", "size", right=(1, 2, 3))
        for part in plan.parts:
            parts.add_row(part.folder, str(part.tensors), str(part.copied), _size(part.size_bytes))
        self._console.print(sources)
        self._console.print(parts)
        if plan.ignored:
            some = ", ".join(plan.ignored[:4]) + (f" and {len(plan.ignored) - 4} more" if len(plan.ignored) > 4 else "")
            self._line(f"left out knowingly: {some}")

    def _show_progress(self, progress: ProgressEvent) -> None:
        title = _TITLES[progress.stage]
        key = (progress.stage, progress.total_bytes)
        if self._bar is not None:
            if key != self._stage:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(title, total=progress.total_bytes, completed=progress.done_bytes)
            described = escape(f"{title} {progress.item}")
            self._bar.update(self._bar.task_ids[0], completed=progress.done_bytes, description=described)
        elif key != self._stage:
            self._line(f"{title}: {_size(progress.total_bytes)}")
        self._stage = key

    def _show_finished(self, finished: Finished) -> None:
        manifest = finished.manifest
        what = f"{manifest.get('model')} {manifest.get('variant')}, stored as {manifest.get('storage')}"
        if finished.was_there:
            self._line(f"{finished.folder} is there already: {what}. `--check` reads it entirely, `--replace` makes it anew.")
            return
        peak = finished.peak_memory_bytes
        memory = "" if peak is None else f". Most memory used: {peak / _MIB:,.0f} MiB"
        self._line(f"{finished.folder} is whole: {what}{memory}")
        self._line("A lane of the profile a10g opens it: `warmlane up --profile a10g`")

    def _show_checked(self, checked: Checked) -> None:
        for difference in checked.differences:
            self._line(difference)
        if not checked.differences:
            self._line(f"{checked.folder} is what its manifest says: {checked.files} files, {_size(checked.size_bytes)}")
        else:
            self._line(f"{checked.folder} is not what it should be. `--replace` makes it anew")

    def _line(self, text: str) -> None:
        if self._visible:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(*headings: str, right: Iterable[int] = ()) -> Table:
    aligned = set(right)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="right" if number in aligned else "left")
    return table


def _size(size_bytes: int) -> str:
    """In the unit, of ten times three, that gives three digits or more."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.2f} {unit}"
    return f"{size_bytes} B"
