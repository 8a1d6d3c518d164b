"""Checks one value against one field rule: strict types, limits, and sentences that say what to do."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from runtime.rules.catalogue import IMAGE_KEY_PATTERN, FieldRule, Kind
from runtime.rules.request import ImageReference

# Unicode category Cc without tab, newline and carriage return. Joiners and direction marks (Cf) are part of scripts and emoji.
CONTROL_CHARACTERS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f"

# What counts as blank beside control characters: Unicode's White_Space. A text of nothing else is empty for whoever reads it.
BLANKS = r"\t\n\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"

_CONTROL = re.compile(f"[{CONTROL_CHARACTERS}]")
# JSON can spell half of a surrogate pair; such text has no UTF-8 form and could not be stored or sent.
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_IMAGE_KEY = re.compile(IMAGE_KEY_PATTERN)


Check = Callable[[FieldRule, object, Sequence[str]], "str | int | float | ImageReference"]
"""Checks a value against a rule; see `check_value`."""


class ValueRefusedError(Exception):
    """The value breaks its rule; the message completes `<field> …`."""


def check_value(rule: FieldRule, value: object, options: Sequence[str] = ()) -> str | int | float | ImageReference:
    """The value as the request holds it. `options` are the choices of a rule that lists none itself.

    Raises:
        ValueRefusedError: it breaks the rule.
    """
    return _CHECKS[rule.kind](rule, value, options)


def check_of(kind: Kind) -> Check:
    """What checks values of this kind, for callers that check many: takes rule, value and options as `check_value`."""
    return _CHECKS[kind]


def spell(number: int | float) -> str:
    """A limit as a message spells it: 2048, 0.5, 1."""
    return str(number) if isinstance(number, int) else f"{number:g}"


def _text(rule: FieldRule, value: object, _options: Sequence[str]) -> str:
    if not isinstance(value, str):
        msg = "must be text"
        raise ValueRefusedError(msg)
    if rule.maximum is not None and len(value) > rule.maximum:
        msg = f"must have at most {rule.maximum} characters, it has {len(value)}"
        raise ValueRefusedError(msg)
    if rule.minimum and not value.strip():
        msg = "must not be blank"
        raise ValueRefusedError(msg)
    # Neither kind of character is printable: most texts need no closer look.
    if value.isprintable():
        return value
    if _CONTROL.search(value):
        msg = "must not contain control characters other than tab, newline and carriage return"
        raise ValueRefusedError(msg)
    if _SURROGATE.search(value):
        msg = "must be valid Unicode text; it contains half of a surrogate pair"
        raise ValueRefusedError(msg)
    return value


def _choice(rule: FieldRule, value: object, options: Sequence[str]) -> str:
    options = rule.options or options
    if isinstance(value, str) and value in options:
        return value
    msg = f"must be one of {', '.join(options)}" if len(options) > 1 else f"must be {options[0]}"
    raise ValueRefusedError(msg)


def _integer(rule: FieldRule, value: object, _options: Sequence[str]) -> int:
    if type(value) is int:
        # As nearly always.
        _check_range(rule, value)
        return value
    # bool is a subclass of int; JSON true is no number.
    is_integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_integral:
        msg = "must be an integer"
        raise ValueRefusedError(msg)
    _check_range(rule, value)
    return int(value)


def _number(rule: FieldRule, value: object, _options: Sequence[str]) -> float:
    if type(value) is float and math.isfinite(value):
        _check_range(rule, value)
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = "must be a number"
        raise ValueRefusedError(msg)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        msg = "must be a finite number"
        raise ValueRefusedError(msg)
    _check_range(rule, number)
    return number


def _check_range(rule: FieldRule, value: int | float) -> None:
    if rule.minimum is None or rule.maximum is None or rule.minimum <= value <= rule.maximum:
        return
    msg = f"must be between {spell(rule.minimum)} and {spell(rule.maximum)}"
    raise ValueRefusedError(msg)


def _image(_rule: FieldRule, value: object, _options: Sequence[str]) -> ImageReference:
    key = value.key if isinstance(value, ImageReference) else value.get("key") if isinstance(value, Mapping) else None
    if not isinstance(key, str) or not _IMAGE_KEY.fullmatch(key):
        msg = "must be the reference of an uploaded image (inputs/ and 64 hexadecimal digits)"
        raise ValueRefusedError(msg)
    return ImageReference(key=key)


def _keyframes(_rule: FieldRule, _value: object, _options: Sequence[str]) -> str:
    msg = "keyframes are checked one by one"
    raise TypeError(msg)


_CHECKS: Mapping[Kind, Check] = {
    Kind.TEXT: _text,
    Kind.CHOICE: _choice,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.IMAGE: _image,
    Kind.KEYFRAMES: _keyframes,
}
