"""How a lane describes what its model's authors publish: sources, the parts within them, names that say what a file is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from runtime.lane.prepare.naming import Naming
    from runtime.lane.prepare.published import PublishedTensor

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What a fast tokenizer is loaded from; the first two must be there."""


class SourceKind(StrEnum):
    """What a source is."""

    WEIGHTS = "weights"
    """One safetensors file, or several with an index."""
    FOLDER = "folder"
    """A folder in diffusers' layout, of which some subfolders are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """Where the authors publish a source: on the hub."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something that a model is prepared from.

    Attributes:
        name: `high`, `base`, …; the option of the command is `--NAME`.
        title: for people.
        published: by variant.
        licence: as the authors state it.
        subfolders: those that are used of a folder.
        says: the word by which the file or its folder is named, and `says_not`, that of the other expert. The files of two experts have
            the same tensors and shapes, so names are all there is to tell them apart.
        is_optional: prepared only when asked for.
    """

    name: str
    title: str
    kind: SourceKind
    published: Mapping[str, Publication]
    licence: str
    subfolders: tuple[str, ...] = ()
    says: str = ""
    says_not: str = ""
    is_optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part with weights.

    Attributes:
        folder: its name in the prepared folder.
        network: the part as the rest of the program knows it (`runtime.fit.ladder`); decides blocks and types.
        sizes_key: its entry in a file of sizes.
        build: makes the network on the meta device, with fields changed.
        source: the name of it.
        subfolder: of a source that is a folder.
        prefix: of its tensors in the source.
        naming: whose names they have.
    """

    folder: str
    network: str
    sizes_key: str
    build: Callable[..., torch.nn.Module]
    source: str
    naming: Naming
    subfolder: str = ""
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What is published of a model.

    Attributes:
        variants: the first is the default.
        tokenizer_source: holds the folder `tokenizer`.
        ignored: tensors of the sources that no network has, by their whole names, with the reason.
        recognise: what a set of tensors is instead, in words; empty when it is not known.
        says_variant: words in a file's name that stand for a variant.
    """

    model: str
    variants: tuple[str, ...]
    sources: tuple[Source, ...]
    parts: tuple[Part, ...]
    tokenizer_source: str
    recognise: Callable[[str, Mapping[str, PublishedTensor]], str]
    ignored: Mapping[str, str] = field(default_factory=dict[str, str])
    says_variant: Mapping[str, str] = field(default_factory=dict[str, str])

    def source(self, name: str) -> Source:
        """By its name. Raises KeyError when there is none."""
        return {source.name: source for source in self.sources}[name]


Sizes = Mapping[str, Mapping[str, Any]]
"""Fields of configurations that differ from the published ones, by `Part.sizes_key`."""
