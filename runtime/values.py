"""Frozen dataclasses that are made as quickly as plain ones: `quickly_made` below the decorator, `changed` to make one from another.

A frozen dataclass's `__init__` sets each field through `object.__setattr__`, which takes three times as long as a plain assignment; a
decision makes some thirty values, so that was a third of its time (benchmarks/core_decisions.py). Here a value is filled while it is of a
twin class of the same slots that is not frozen, and only then becomes of its own: nobody else ever sees it before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, TypeVar, cast

_T = TypeVar("_T")

# Past the frozen class's own `__setattr__`.
_BECOME = vars(object)["__class__"].__set__
_TWINS: dict[type, type] = {}
# By class and the names of the fields that change, in the order in which they are given: as many as there are calls in the code.
_CHANGERS: dict[tuple[object, ...], Callable[..., Any]] = {}


def quickly_made(cls: type[_T]) -> type[_T]:
    """Gives a class made by `@dataclass(frozen=True, slots=True)` a quicker `__init__` of the same parameters.

    Raises:
        TypeError: it is no such dataclass, has bases, a `__post_init__`, or a field that is no parameter.
    """
    if not is_dataclass(cls) or cls.__bases__ != (object,) or hasattr(cls, "__post_init__") or "__slots__" not in vars(cls):
        msg = f"{cls.__name__} must be a dataclass with slots, without bases and without __post_init__"
        raise TypeError(msg)
    parts = fields(cls)
    if not cls.__dataclass_params__.frozen or not all(part.init for part in parts):  # type: ignore[attr-defined]
        msg = f"{cls.__name__} must be frozen, and every field of it a parameter"
        raise TypeError(msg)
    twin = type(cls.__name__, (), {"__slots__": tuple(part.name for part in parts)})
    setattr(cls, "__init__", _filling(cls, twin, parts))  # noqa: B010 - to the type checker a method is no attribute
    _TWINS[cls] = twin
    return cast("type[_T]", cls)


def changed(value: _T, **changes: object) -> _T:
    """As `dataclasses.replace`, for a class that is `quickly_made`, in a fifth of its time. AttributeError: no such field."""
    return changed_by(value, changes)


def changed_by(value: _T, changes: Mapping[str, object]) -> _T:
    """The same, of changes that are at hand."""
    kind = type(value)
    changer = _CHANGERS.get((kind, *changes)) or _changer(kind, tuple(changes))
    return cast("_T", changer(value, *changes.values()))


def _changer(kind: type, names: tuple[str, ...]) -> Callable[..., Any]:
    """Makes a value from another and the new values of these fields."""
    known = [part.name for part in fields(kind)]
    if unknown := set(names).difference(known):
        msg = f"{kind.__name__} has no {', '.join(sorted(unknown))}"
        raise AttributeError(msg)
    source = [
        f"def change(value, {', '.join(f'new_{name}' for name in names)}):",
        "    self = new(twin)",
        *(f"    self.{name} = {f'new_{name}' if name in names else f'value.{name}'}" for name in known),
        "    self.__class__ = own",
        "    return self",
    ]
    made = _executed(source, {"new": object.__new__, "own": kind, "twin": _TWINS[kind]})
    return _CHANGERS.setdefault((kind, *names), made["change"])


def _filling(cls: type, twin: type, parts: tuple[Field[Any], ...]) -> Callable[..., None]:
    """The quicker `__init__`."""
    names: dict[str, Any] = {"become": _BECOME, "own": cls, "twin": twin, "MISSING": MISSING}
    parameters, filling, has_star = ["self"], [], False
    for part in parts:
        if part.kw_only and not has_star:
            parameters.append("*")
            has_star = True
        given = part.name
        if part.default is not MISSING:
            names[f"default_{part.name}"] = part.default
            parameters.append(f"{part.name}=default_{part.name}")
        elif part.default_factory is not MISSING:
            names[f"make_{part.name}"] = part.default_factory
            parameters.append(f"{part.name}=MISSING")
            given = f"make_{part.name}() if {part.name} is MISSING else {part.name}"
        else:
            parameters.append(part.name)
        filling.append(f"    self.{part.name} = {given}")
    source = [f"def __init__({', '.join(parameters)}):", "    become(self, twin)", *filling, "    self.__class__ = own"]
    return cast("Callable[..., None]", _executed(source, names)["__init__"])


def _executed(source: list[str], names: dict[str, Any]) -> dict[str, Any]:
    """As `dataclasses` does it, and of nothing but the names of our own fields."""
    exec("\n".join(source), names)  # noqa: S102
    return names
