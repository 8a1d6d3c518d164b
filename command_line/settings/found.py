"""Finds the models in a settings file, whatever it wraps them in, and the named entries of a model's lists or objects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from command_line.settings.differences import Json, item, member
from runtime.rules.catalogue import MODELS

# Deeper than any file that people write.
_DEEPEST = 8
_ENTRY_MEMBERS = ("fixed_parameters", "parameters")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundModel:
    """One model of the file: where it stands, how it is called (empty: nothing says it), and what is said of it."""

    path: str
    id: str
    entry: dict[str, Json]


def find_models(document: Json) -> list[FoundModel]:
    """Every model, in the order of the file.

    A model is an object under a model's id, or one with such an `id`, or one with `fixed_parameters` or `parameters`.
    """
    return list(_within(document, "", "", _DEEPEST))


def _within(node: Json, path: str, name: str, depth: int) -> Iterator[FoundModel]:
    if depth == 0:
        return
    if isinstance(node, dict):
        model_id = _id_of(node, name)
        if model_id in MODELS or any(isinstance(node.get(one), dict | list) for one in _ENTRY_MEMBERS):
            yield FoundModel(path=path, id=model_id, entry=node)
            return
        for key, value in node.items():
            yield from _within(value, member(path, key), key, depth - 1)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _within(value, item(path, number), "", depth - 1)


def _id_of(node: dict[str, Json], name: str) -> str:
    """Its own word first, then the name that it stands under."""
    for key in ("id", "model"):
        told = node.get(key)
        if isinstance(told, str):
            return told
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """An entry with its name, from `{"steps": …}` or from `[{"name": "steps", …}]`."""

    path: str
    name: str
    entry: Json


def named_entries(value: Json, path: str) -> list[Named] | None:
    """The entries of an object, or of a list of objects that say their `name` or `id`; None: it is neither."""
    if isinstance(value, dict):
        return [Named(path=member(path, name), name=name, entry=entry) for name, entry in value.items()]
    if not isinstance(value, list):
        return None
    named = []
    for number, entry in enumerate(value):
        name = next((told for key in ("name", "id") if isinstance(entry, dict) and isinstance(told := entry.get(key), str)), None)
        if name is None:
            return None
        named.append(Named(path=item(path, number), name=name, entry=entry))
    return named
