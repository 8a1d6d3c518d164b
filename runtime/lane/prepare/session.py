"""One preparation from order to folder: sources, plan, weights, manifest, rename. In this order, and the rename is last."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from runtime.lane.memory.process import host_rss_peak_bytes
from runtime.lane.prepare.check import file_hash
from runtime.lane.prepare.checkpoint import Checkpoint, Part
from runtime.lane.prepare.failures import Cause, PrepareError, listed
from runtime.lane.prepare.journal import Journal, Workshop, held, sync_folder, sync_tree
from runtime.lane.prepare.locate import chosen_sources, locate, remove_downloads
from runtime.lane.prepare.plan import Making, PartPlan, Plan, make_plan
from runtime.lane.prepare.published import read_published
from runtime.lane.prepare.sizes import SizesFile, read_sizes
from runtime.lane.prepare.sources import TOKENIZER, LocatedSource, SourceFile, check_names, check_unchanged, hash_files, source_files
from runtime.lane.prepare.telling import Teller
from runtime.lane.prepare.vocabulary import check_vocabulary
from runtime.lane.prepare.writer import disk_errors, verify_weights, write_weights, written_bytes
from runtime.lane.wan.components import silence_libraries
from runtime.lane.wan.manifest import FILE_NAME, FORMAT, PUBLISHED_SIZES, FileEntry, Manifest, ManifestError, SourceEntry, open_folder
from runtime.preparation import Finished, Order, PartDocument, Planned, SourceDocument, Stage

_RESERVE_BYTES = 64 * 1024 * 1024
"""Beside the weights: tokenizer, configurations, journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What is decided before anything is written."""

    checkpoint: Checkpoint
    variant: str
    sizes: SizesFile | None
    located: tuple[LocatedSource, ...]
    files: tuple[SourceFile, ...]
    plan: Plan

    @property
    def sizes_name(self) -> str:
        return PUBLISHED_SIZES if self.sizes is None else self.sizes.name


def prepare(order: Order, checkpoint: Checkpoint, teller: Teller) -> None:
    """Makes the model's folder.

    Raises:
        PrepareError: it cannot be made. What is done already is kept where the same order could go on with it.
    """
    silence_libraries()
    variant = order.variant or checkpoint.variants[0]
    if variant not in checkpoint.variants:
        raise PrepareError(Cause.ASKED, f"--variant: {checkpoint.model} has {listed(checkpoint.variants)}, not {variant}")
    sources = chosen_sources(checkpoint, order)
    sizes = None if order.sizes is None else read_sizes(order.sizes)
    parts = tuple(part for part in checkpoint.parts if part.source in {source.name for source in sources})
    target = order.models_dir / checkpoint.model
    downloads_dir = order.downloads_dir or order.models_dir / ".downloads"
    with held(order.models_dir, checkpoint.model):
        if target.exists() and not order.replace:
            _workshop(order).tidy()
            _tell_present(target, order, variant, sizes, parts, teller)
            return
        located = locate(sources, order, variant, downloads_dir, teller)
        work = _decide(order, checkpoint, variant, sizes, parts, located)
        _tell_plan(work, order, teller)
        manifest = _make(work, order, target, teller)
        if not order.keep_downloads:
            remove_downloads(located, downloads_dir)
    teller.tell(_finished(target, manifest, was_there=False))


def _decide(
    order: Order,
    checkpoint: Checkpoint,
    variant: str,
    sizes: SizesFile | None,
    parts: tuple[Part, ...],
    located: tuple[LocatedSource, ...],
) -> _Work:
    """Reads headers and compares; nothing is written."""
    by_name = {one.source.name: one for one in located}
    files = tuple(file for one in located for file in source_files(one))
    check_names(checkpoint, variant, files)
    places = {(part.source, part.subfolder) for part in parts}
    published = {(name, subfolder): read_published(by_name[name].place(subfolder)) for name, subfolder in sorted(places)}
    fields = {} if sizes is None else sizes.by_part()
    try:
        plan = make_plan(checkpoint, parts, published, storage=order.storage.value, sizes=fields)
    except (TypeError, ValueError) as error:
        if sizes is None:
            raise
        raise PrepareError(Cause.ASKED, f"--sizes {order.sizes}: no network can be made of it: {error}") from error
    text_encoder: Any = next(one.module for one in plan.parts if one.part.network == "text_encoder")
    check_vocabulary(by_name[checkpoint.tokenizer_source].root / TOKENIZER / "tokenizer.json", text_encoder.config)
    return _Work(checkpoint=checkpoint, variant=variant, sizes=sizes, located=located, files=files, plan=plan)


def _make(work: _Work, order: Order, target: Path, teller: Teller) -> Manifest:
    workshop = _workshop(order)
    with disk_errors(order.models_dir):
        teller.begin(Stage.HASH, sum(file.size_bytes for file in work.files))
        hashes = hash_files(work.files, workshop.hashes, teller.add)
        journal = Journal(workshop, _made_of(work, order, hashes))
        try:
            done = written_bytes(work.plan, journal)
            if journal.was_of_something_else:
                teller.note("an unfinished folder of other sources or options was thrown away")
            if done:
                teller.note(f"going on: {done / 1e9:.2f} of {work.plan.size_bytes / 1e9:.2f} GB are written already")
            _check_room(order.models_dir, work.plan.size_bytes - done)
            teller.begin(Stage.WRITE, work.plan.size_bytes)
            teller.add("", done)
            write_weights(work.plan, workshop.folder, journal, teller.add)
            check_unchanged(work.files)
            teller.begin(Stage.VERIFY, work.plan.size_bytes)
            verify_weights(work.plan, workshop.folder, journal, teller.add)
            manifest = _manifest(work, order, hashes, _write_small(work, workshop.folder, journal))
            (workshop.folder / FILE_NAME).write_text(manifest.text(), encoding="utf-8")
        finally:
            journal.close()
        _put_in_place(workshop, target)
    return manifest


def _workshop(order: Order) -> Workshop:
    return Workshop(order.models_dir / f".{order.model}.unfinished")


def _made_of(work: _Work, order: Order, hashes: Mapping[Path, str]) -> dict[str, Any]:
    """The same when an unfinished folder can be gone on with."""
    return {
        "format": FORMAT,
        "tool": _tool(),
        "storage": order.storage.value,
        "variant": work.variant,
        "sizes": None if work.sizes is None else work.sizes.model_dump(mode="json"),
        "sources": [[file.located.source.name, file.path.name, hashes[file.path]] for file in work.files],
        "plan": work.plan.digest,
    }


def _write_small(work: _Work, folder: Path, journal: Journal) -> tuple[FileEntry, ...]:
    """Writes configurations and the tokenizer; returns the entries of all files."""
    entries = []
    for part in work.plan.parts:
        _write_config(part, folder / part.part.folder)
        entries.append(FileEntry(path=part.path, size_bytes=part.size_bytes, sha256=journal.verified(part.path) or ""))
        entries.append(_entry(folder, f"{part.part.folder}/config.json"))
    (folder / TOKENIZER).mkdir(exist_ok=True)
    for file in work.files:
        if file.located.source.name == work.checkpoint.tokenizer_source and file.path.parent.name == TOKENIZER:
            (folder / TOKENIZER / file.path.name).write_bytes(file.path.read_bytes())
            entries.append(_entry(folder, f"{TOKENIZER}/{file.path.name}"))
    return tuple(entries)


def _write_config(part: PartPlan, folder: Path) -> None:
    module: Any = part.module
    if part.part.network == "text_encoder":
        module.config.save_pretrained(folder)
    else:
        module.save_config(folder)


def _entry(folder: Path, path: str) -> FileEntry:
    return FileEntry(path=path, size_bytes=(folder / path).stat().st_size, sha256=file_hash(folder / path))


def _manifest(work: _Work, order: Order, hashes: Mapping[Path, str], entries: tuple[FileEntry, ...]) -> Manifest:
    return Manifest(
        format=FORMAT,
        model=work.checkpoint.model,
        variant=work.variant,
        storage=order.storage.value,
        sizes=work.sizes_name,
        parts=tuple(part.part.folder for part in work.plan.parts),
        sources=tuple(
            SourceEntry(
                source=file.located.source.name,
                repository=file.located.repository,
                commit=file.located.commit,
                file=file.name,
                size_bytes=file.size_bytes,
                sha256=hashes[file.path],
                licence=file.located.source.licence,
            )
            for file in work.files
        ),
        files=tuple(sorted(entries, key=lambda entry: entry.path)),
        tool=_tool(),
    )


def _put_in_place(workshop: Workshop, target: Path) -> None:
    """Renames the folder; one that was there goes only now."""
    sync_tree(workshop.folder)
    replaced = workshop.root / "replaced"
    shutil.rmtree(replaced, ignore_errors=True)
    if target.exists():
        target.rename(replaced)
    workshop.folder.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(workshop.root, ignore_errors=True)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _RESERVE_BYTES > free:
        wanted = (needed + _RESERVE_BYTES) / 1e9
        msg = f"{folder} has {free / 1e9:.2f} GB free, and {wanted:.2f} GB are to be written. Make room, and run this again"
        raise PrepareError(Cause.DISK, msg)


def _tell_present(target: Path, order: Order, variant: str, sizes: SizesFile | None, parts: tuple[Part, ...], teller: Teller) -> None:
    """The folder is there: that is fine when it is what the order asks for."""
    try:
        manifest = open_folder(target, order.model)
    except ManifestError as error:
        raise PrepareError(Cause.PREPARED_FOLDER, f"{error}. `--replace` makes {target} anew") from error
    asked = {
        "variant": variant,
        "storage": order.storage.value,
        "sizes": PUBLISHED_SIZES if sizes is None else sizes.name,
        "parts": tuple(part.folder for part in parts),
    }
    there = {name: getattr(manifest, name) for name in asked}
    differing = [f"{name} is {_told(there[name])}, not {_told(wanted)}" for name, wanted in asked.items() if there[name] != wanted]
    if differing:
        msg = f"{target} is prepared otherwise: its {'; its '.join(differing)}. `--replace` makes it anew"
        raise PrepareError(Cause.PREPARED_FOLDER, msg)
    teller.tell(_finished(target, manifest, was_there=True))


def _told(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " + ".join(value)


def _tell_plan(work: _Work, order: Order, teller: Teller) -> None:
    teller.tell(
        Planned(
            model=work.checkpoint.model,
            variant=work.variant,
            storage=order.storage,
            sizes=work.sizes_name,
            sources=tuple(
                SourceDocument(
                    source=file.located.source.name,
                    origin=str(file.path.parent) if file.located.repository is None else f"{file.located.repository}@{file.located.commit}",
                    file=file.path.name if file.located.repository is None else file.name,
                    size_bytes=file.size_bytes,
                    licence=file.located.source.licence,
                )
                for file in work.files
            ),
            parts=tuple(
                PartDocument(
                    folder=part.part.folder,
                    tensors=len(part.tensors),
                    copied=sum(tensor.making is Making.COPY for tensor in part.tensors),
                    size_bytes=part.size_bytes,
                )
                for part in work.plan.parts
            ),
            ignored=work.plan.ignored,
        )
    )


def _finished(target: Path, manifest: Manifest, *, was_there: bool) -> Finished:
    document = manifest.model_dump(mode="json")
    return Finished(folder=target, was_there=was_there, manifest=document, peak_memory_bytes=host_rss_peak_bytes())


def _tool() -> str:
    return f"warmlane {version('warmlane')}"
