"""What became of every row of a gallery, for people and for programs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console

from command_line.documents import Value
from command_line.gallery.rows import Kept, StaysBehind, Wanted

# The names of parameters come from the file: no more of them than anyone reads.
_MOST_NAMES = 50


@dataclass(slots=True, kw_only=True)
class Report:
    """Grows row by row.

    Attributes:
        file: the gallery.
        is_dry: nothing was sent.
        imported: rows that were taken over; in a dry run, that would be unless they are there.
        already_there: tasks of their ids were there.
        image_models: rows of models that make images; they stay where they are.
        stayed: every other row that was not taken over.
        without_preview: ids of done rows whose preview could not be taken over, with the reason.
        cleaned: ids of rows in whose texts control characters became spaces.
        unknown, unusable: parameters that were left out, by name.
        images: rows whose input images were left behind.
    """

    file: str
    is_dry: bool
    rows: int = 0
    imported: int = 0
    already_there: int = 0
    image_models: int = 0
    stayed: list[StaysBehind] = field(default_factory=list)
    without_preview: dict[str, str] = field(default_factory=dict)
    cleaned: list[str] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    images: int = 0

    @property
    def is_whole(self) -> bool:
        """Every row of a video model was taken over or is there."""
        return not self.stayed

    def stays(self, row: StaysBehind) -> None:
        """A row that is not taken over."""
        if row.kept is Kept.IMAGE_MODEL:
            self.image_models += 1
        else:
            self.stayed.append(row)

    def refused(self, wanted: Wanted, reason: str) -> None:
        """A row that could have been taken over, but for this."""
        self.stayed.append(StaysBehind(row_id=wanted.task.task_id, kept=Kept.REFUSED, reason=reason))

    def taken(self, wanted: Wanted, *, is_new: bool, preview_problem: str) -> None:
        """A row that is taken over, or is there."""
        if not is_new:
            self.already_there += 1
            return
        self.imported += 1
        self.unknown.update(wanted.unknown)
        self.unusable.update(wanted.unusable)
        self.images += bool(wanted.images)
        if wanted.is_cleaned:
            self.cleaned.append(wanted.task.task_id)
        if preview_problem:
            self.without_preview[wanted.task.task_id] = preview_problem

    def document(self) -> dict[str, Value]:
        """For `--json`; names are stable."""
        return {
            "file": self.file,
            "dry_run": self.is_dry,
            "rows": self.rows,
            "imported": self.imported,
            "already_there": self.already_there,
            "image_models": self.image_models,
            "not_taken_over": [{"id": one.row_id, "kind": one.kept.value, "reason": one.reason} for one in self.stayed],
            "without_preview": [{"id": name, "reason": reason} for name, reason in self.without_preview.items()],
            "cleaned": list(self.cleaned),
            "unknown_parameters": dict(self.unknown.most_common(_MOST_NAMES)),
            "unusable_parameters": dict(self.unusable.most_common(_MOST_NAMES)),
            "without_input_images": self.images,
        }

    def print(self, console: Console) -> None:
        """For people: the rows that were left first, so that the sums stand where the eye is."""
        for one in self.stayed:
            _line(console, f"not taken over: {one.row_id}: {one.reason}")
        for name, reason in self.without_preview.items():
            _line(console, f"without its preview: {name}: the preview {reason}")
        for name in self.cleaned:
            _line(console, f"control characters became spaces: {name}")
        for title, names in (("unknown", self.unknown), ("unusable", self.unusable)):
            if names:
                told = ", ".join(f"{name} ({count})" for name, count in names.most_common(_MOST_NAMES))
                _line(console, f"{title} parameters left out: {told}")
        if self.images:
            _line(console, f"{self.images} rows had input images; those are not taken over")
        verb = "would be taken over, unless they are there" if self.is_dry else "taken over"
        told = f"{self.imported} {verb}"
        if not self.is_dry:
            told += f", {self.already_there} there already"
        _line(console, f"{self.rows} rows: {told}, {self.image_models} of image models, {len(self.stayed)} not taken over")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
