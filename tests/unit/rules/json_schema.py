"""A small JSON Schema judge: the keywords that the rule set's schema uses; any other keyword is an error of the test."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_NOTES = frozenset({"$schema", "title", "description", "default", "then", "x-unused"})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
}

_KEYWORDS: Mapping[str, Callable[[Any, Any], bool]] = {
    "type": lambda kinds, value: any(_TYPES[kind](value) for kind in (kinds if isinstance(kinds, list) else [kinds])),
    "const": lambda const, value: value == const and isinstance(value, bool) == isinstance(const, bool),
    "enum": lambda options, value: value in options,
    "minimum": lambda limit, value: not _is_number(value) or value >= limit,
    "maximum": lambda limit, value: not _is_number(value) or value <= limit,
    "minLength": lambda limit, value: not isinstance(value, str) or len(value) >= limit,
    "maxLength": lambda limit, value: not isinstance(value, str) or len(value) <= limit,
    "pattern": lambda pattern, value: not isinstance(value, str) or re.search(pattern, value) is not None,
    "minItems": lambda limit, value: not isinstance(value, list) or len(value) >= limit,
    "maxItems": lambda limit, value: not isinstance(value, list) or len(value) <= limit,
    "required": lambda names, value: not isinstance(value, dict) or all(name in value for name in names),
    "items": lambda schema, value: not isinstance(value, list) or all(accepts(schema, item) for item in value),
    "properties": lambda schemas, value: (
        not isinstance(value, dict) or all(accepts(schema, value[name]) for name, schema in schemas.items() if name in value)
    ),
    "anyOf": lambda schemas, value: any(accepts(schema, value) for schema in schemas),
    "allOf": lambda schemas, value: all(accepts(schema, value) for schema in schemas),
    "not": lambda schema, value: not accepts(schema, value),
}


def accepts(schema: Mapping[str, Any], value: object) -> bool:
    """Whether the schema accepts the value."""
    for keyword, argument in schema.items():
        if keyword in _NOTES:
            continue
        if keyword == "if":
            if accepts(argument, value) and not accepts(schema["then"], value):
                return False
        elif not _KEYWORDS[keyword](argument, value):
            return False
    return True
