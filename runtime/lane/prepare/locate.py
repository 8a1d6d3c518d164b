"""Brings the sources of an order to this machine: a local path as it is, anything else from the hub."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from runtime.lane.prepare.checkpoint import TOKENIZER_FILES, Checkpoint, Publication, Source, SourceKind
from runtime.lane.prepare.failures import Cause, PrepareError, listed
from runtime.lane.prepare.hub import HubFile, Listing, downloads, fetch, list_repository
from runtime.lane.prepare.sources import TOKENIZER, LocatedSource
from runtime.lane.prepare.telling import Teller
from runtime.preparation import Order, SourceOrder, Stage

_WEIGHT_ENDINGS = (".safetensors", ".safetensors.index.json")


def chosen_sources(checkpoint: Checkpoint, order: Order) -> tuple[Source, ...]:
    """The sources that an order needs.

    Raises:
        PrepareError: it names one that the model has not, or one of a pair only.
    """
    names = [source.name for source in checkpoint.sources]
    if unknown := sorted(set(order.sources) - set(names)):
        msg = f"{checkpoint.model} has no source {listed(unknown)}; it has {listed(f'--{name}' for name in names)}"
        raise PrepareError(Cause.ASKED, msg)
    for name, one in order.sources.items():
        if one.path is not None and (one.repository or one.revision or one.file):
            raise PrepareError(Cause.ASKED, f"--{name}: a local path, or a repository of the hub, not both")
        if one.sha256 and checkpoint.source(name).kind is not SourceKind.WEIGHTS:
            raise PrepareError(Cause.ASKED, f"--sha256 {name}: it is a folder; only a source of one file has a hash")
    optional = [source.name for source in checkpoint.sources if source.is_optional]
    wanted = [name for name in optional if order.with_t2v or name in order.sources]
    if wanted and wanted != optional:
        raise PrepareError(Cause.ASKED, f"{listed(f'--{name}' for name in optional)} go together")
    return tuple(source for source in checkpoint.sources if not source.is_optional or source.name in wanted)


def locate(sources: tuple[Source, ...], order: Order, variant: str, folder: Path, teller: Teller) -> tuple[LocatedSource, ...]:
    """Every source on this machine; downloads what is not.

    Args:
        sources: those that are needed.
        order: where they are.
        variant: of the model's files.
        folder: takes downloads.
        teller: told the progress.

    Raises:
        PrepareError: the hub fails, or has not what is named; or the disk is too small for the downloads.
    """
    listings: dict[tuple[str, str], Listing] = {}
    planned: list[tuple[Source, Listing, str, list[HubFile]]] = []
    for source in sources:
        one = order.sources.get(source.name, SourceOrder())
        if one.path is None:
            place = _place(source, one, variant)
            key = (place.repository, place.revision)
            listings[key] = listings.get(key) or list_repository(*key)
            files = [listings[key].files[name] for name in _names(listings[key], source, place)]
            _check_stated(source, one, files)
            planned.append((source, listings[key], place.file, files))
    _check_room(folder, [(listing, file) for _, listing, _, files in planned for file in files])
    located = {source.name: _fetch(source, order, listing, (file, files), folder, teller) for source, listing, file, files in planned}
    for source in sources:
        one = order.sources.get(source.name, SourceOrder())
        if one.path is not None:
            located[source.name] = LocatedSource(source=source, root=one.path, files={}, sha256=one.sha256)
    return tuple(located[source.name] for source in sources)


def remove_downloads(located: tuple[LocatedSource, ...], folder: Path) -> None:
    """Removes what came from the hub for these sources, and folders that are empty then."""
    for source in located:
        for path in source.files:
            path.unlink(missing_ok=True)
            for above in path.parents:
                if above == folder.parent:
                    break
                with suppress(OSError):
                    above.rmdir()


def _fetch(
    source: Source, order: Order, listing: Listing, wanted: tuple[str, list[HubFile]], folder: Path, teller: Teller
) -> LocatedSource:
    place, files = wanted
    teller.begin(Stage.DOWNLOAD, sum(file.size_bytes for file in files))
    root = downloads(listing, folder)
    return LocatedSource(
        source=source,
        root=root / place if place else root,
        files={fetch(listing, file, folder, teller.add): file for file in files},
        repository=listing.repository,
        commit=listing.commit,
        sha256=order.sources.get(source.name, SourceOrder()).sha256,
    )


def _place(source: Source, one: SourceOrder, variant: str) -> Publication:
    published = source.published[variant] if variant in source.published else source.published[""]
    is_same = one.repository in {None, published.repository}
    return Publication(
        repository=one.repository or published.repository,
        file=one.file if one.file is not None else published.file,
        revision=one.revision or (published.revision if is_same else "main"),
    )


def _names(listing: Listing, source: Source, place: Publication) -> list[str]:
    """The files of a source in its repository."""
    if source.kind is SourceKind.WEIGHTS and place.file in listing.files and not place.file.endswith(_WEIGHT_ENDINGS[1]):
        return [place.file]
    if source.kind is SourceKind.WEIGHTS:
        folder = str(PurePosixPath(place.file).parent) if place.file in listing.files else place.file
        names = list(_weights_in(listing, folder))
    else:
        names = []
        for subfolder in source.subfolders:
            if subfolder == TOKENIZER:
                names += [name for one in TOKENIZER_FILES if (name := f"{_below(place.file)}{TOKENIZER}/{one}") in listing.files]
            else:
                names += _weights_in(listing, f"{_below(place.file)}{subfolder}")
    if not names:
        msg = f"{listing.repository} at {listing.commit} has no weights at {place.file or 'its root'}, where {source.title} should be"
        raise PrepareError(Cause.HUB, msg)
    return names


def _weights_in(listing: Listing, folder: str) -> Iterator[str]:
    return (name for name in sorted(listing.files) if str(PurePosixPath(name).parent) == folder and name.endswith(_WEIGHT_ENDINGS))


def _below(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _check_stated(source: Source, one: SourceOrder, files: list[HubFile]) -> None:
    """A hash that is wrong already is told before the download."""
    if one.sha256 and len(files) != 1:
        raise PrepareError(Cause.ASKED, f"--sha256 {source.name}: it has {len(files)} files, and a hash is of one")
    if one.sha256 and files[0].sha256 not in {None, one.sha256}:
        msg = f"the hub states the SHA-256 {files[0].sha256} for {files[0].name}, and --sha256 says {one.sha256}: another revision?"
        raise PrepareError(Cause.WRONG_SOURCE, msg)


def _check_room(folder: Path, files: list[tuple[Listing, HubFile]]) -> None:
    """Tells before a download of hours that it cannot end well."""
    if not files:
        return
    folder.mkdir(parents=True, exist_ok=True)
    left = sum(file.size_bytes - _present(downloads(listing, folder) / file.name) for listing, file in files)
    free = shutil.disk_usage(folder).free
    if left > free:
        msg = (
            f"{folder} has {free / 1e9:.1f} GB free, and {left / 1e9:.1f} GB are to be downloaded. Name another folder with --downloads-dir"
        )
        raise PrepareError(Cause.DISK, msg)


def _present(path: Path) -> int:
    return max((one.stat().st_size for one in (path, path.with_name(f"{path.name}.part")) if one.is_file()), default=0)
