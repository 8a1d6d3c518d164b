"""Compares what a settings file offers for one parameter with the server's limits and with our own form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from command_line.settings.differences import Difference, Json, error, member, note, shown
from runtime.rules.catalogue import FieldRule, Kind
from runtime.rules.forms import FormControl
from runtime.rules.values import ValueRefusedError, check_value

_NUMBERS = (Kind.INTEGER, Kind.NUMBER)
# Room for steps such as 0.1, which have no exact binary form.
_NEARLY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Offered:
    """What the file offers for a parameter.

    Attributes:
        path: where it stands.
        entry: `default` and `min`, `max`, `step`, or `options`, or `max_length`.
        rule: the server's.
        choices: values of a choice whose rule lists none itself.
        ours: our own form's control.
    """

    path: str
    entry: dict[str, Json]
    rule: FieldRule
    choices: tuple[str, ...]
    ours: FormControl

    def at(self, name: str) -> str:
        """Path of one of its members."""
        return member(self.path, name)

    def refusal(self, value: Json) -> str | None:
        """Why the server refuses the value; None: it takes it."""
        try:
            check_value(self.rule, value, self.choices)
        except ValueRefusedError as refused:
            return str(refused)
        return None


def compare_control(offered: Offered) -> Iterator[Difference]:
    """Every difference of one parameter."""
    yield from _default(offered)
    if "options" in offered.entry:
        yield from _options(offered)
    elif offered.rule.kind is Kind.TEXT:
        yield from _length(offered)
    elif offered.rule.kind in _NUMBERS and (not offered.ours.options or {"min", "max"} & set(offered.entry)):
        yield from _slider(offered)
    else:
        wanted: Json = list(offered.ours.options)
        yield error(offered.at("options"), "missing_options", f"list the values that a form may send: {shown(wanted)}", expected=wanted)


def _default(offered: Offered) -> Iterator[Difference]:
    path, ours = offered.at("default"), offered.ours.default
    if "default" not in offered.entry:
        yield error(path, "missing_default", f"say the server's default, {shown(ours)}", expected=ours)
        return
    sent = offered.entry["default"]
    refusal = offered.refusal(sent)
    if refusal is not None:
        yield error(
            path, "default_refused", f"the server refuses {shown(sent)}: it {refusal}; its own is {shown(ours)}", found=sent, expected=ours
        )
        return
    if sent != ours:
        message = f"the server's default is {shown(ours)}: a request without the field gives another clip than the form shows"
        yield error(path, "other_default", message, found=sent, expected=ours)
    if not _is_offered(offered, sent):
        yield error(path, "default_not_offered", f"the form starts with {shown(sent)}, which it does not offer itself", found=sent)


def _is_offered(offered: Offered, value: Json) -> bool:
    options = offered.entry.get("options")
    if isinstance(options, list):
        return value in options
    number, low, high = (number_of(one) for one in (value, offered.entry.get("min"), offered.entry.get("max")))
    return number is None or ((low is None or number >= low) and (high is None or number <= high))


def _options(offered: Offered) -> Iterator[Difference]:
    path, sent = offered.at("options"), offered.entry["options"]
    if not isinstance(sent, list):
        yield error(path, "wrong_type", "must be a list of values", found=sent, expected=list(offered.ours.options) or None)
        return
    if not sent:
        yield error(
            path, "no_options", "the list is empty: a form could offer nothing", found=sent, expected=list(offered.ours.options) or None
        )
    for number, value in enumerate(sent):
        refusal = offered.refusal(value)
        if refusal is not None:
            yield error(f"{path}[{number}]", "option_refused", f"the server refuses {shown(value)}: it {refusal}", found=value)
        elif offered.ours.options and value not in offered.ours.options:
            yield note(f"{path}[{number}]", "option_not_ours", f"the server takes {shown(value)}; our form does not offer it", found=value)
    for wanted in offered.ours.options:
        if sent and wanted not in sent:
            yield note(path, "option_left_out", f"our form also offers {shown(wanted)}", found=sent, expected=wanted)


def _length(offered: Offered) -> Iterator[Difference]:
    name = next((one for one in ("max_length", "maxLength") if one in offered.entry), "max_length")
    path, limit = offered.at(name), int(offered.rule.maximum or 0)
    sent = offered.entry.get(name)
    number = number_of(sent)
    if name not in offered.entry:
        yield error(path, "missing_max_length", f"the server takes at most {limit} characters", expected=limit)
    elif number is None or number != int(number) or number < 0:
        yield error(path, "wrong_type", "must be a whole number of characters", found=sent, expected=limit)
    elif number > limit:
        yield error(path, "wider_than_server", f"the server takes at most {limit} characters", found=sent, expected=limit)
    elif number < limit:
        yield note(path, "narrower_than_server", f"the server takes up to {limit} characters", found=sent, expected=limit)


def _slider(offered: Offered) -> Iterator[Difference]:
    ours, rule = offered.ours, offered.rule
    if ours.options:
        yield note(offered.path, "slider_for_list", f"our form offers a list: {shown(list(ours.options))}", expected=list(ours.options))
    yield from _end(offered, "min", rule.minimum, ours.minimum)
    yield from _end(offered, "max", rule.maximum, ours.maximum)
    low, high = number_of(offered.entry.get("min")), number_of(offered.entry.get("max"))
    if low is not None and high is not None and low > high:
        yield error(offered.at("min"), "min_over_max", f"it is over max, which is {shown(high)}", found=low)
    yield from _step(offered)


def _end(offered: Offered, name: str, server: int | float | None, ours: int | float | None) -> Iterator[Difference]:
    """One end of a slider; `server` and `ours` are the ends of the server's range and of our form's."""
    path, wanted = offered.at(name), server if ours is None else ours
    if name not in offered.entry:
        yield error(path, f"missing_{name}", f"the server's limit is {shown(server)}, our form's {shown(wanted)}", expected=wanted)
        return
    sent = offered.entry[name]
    number = number_of(sent)
    if number is None:
        yield error(path, "wrong_type", f"must be a number, it is {shown(sent)}", found=sent, expected=wanted)
        return
    outward = -1 if name == "min" else 1
    if server is not None and (number - server) * outward > 0:
        yield error(
            path, "wider_than_server", f"the server refuses {shown(sent)}: its limit is {shown(server)}", found=sent, expected=server
        )
    elif ours is not None and (number - ours) * outward > 0:
        yield note(path, "wider_than_ours", f"the server takes {shown(sent)}; our form ends at {shown(ours)}", found=sent, expected=ours)
    elif ours is not None and (number - ours) * outward < 0:
        yield note(path, "narrower_than_ours", f"our form offers {shown(ours)} too", found=sent, expected=ours)


def _step(offered: Offered) -> Iterator[Difference]:
    path, ours = offered.at("step"), offered.ours.step
    wanted = 1 if ours is None else ours
    if "step" not in offered.entry:
        yield error(path, "missing_step", f"our form's is {shown(wanted)}", expected=wanted)
        return
    sent = offered.entry["step"]
    step = number_of(sent)
    if step is None or step <= 0:
        yield error(path, "wrong_type", f"must be a number over 0, it is {shown(sent)}", found=sent, expected=wanted)
    elif offered.rule.kind is Kind.INTEGER and not _hits_our_values(offered, step, wanted):
        message = f"the server would not use every value as it is; from {shown(_start(offered))} it goes by {shown(wanted)}"
        yield error(path, "step_off_grid", message, found=sent, expected=wanted)
    elif step != wanted:
        yield note(path, "other_step", f"our form's is {shown(wanted)}", found=sent, expected=wanted)


def _start(offered: Offered) -> int | float:
    ours = offered.ours.minimum
    return ours if ours is not None else offered.rule.minimum or 0


def _hits_our_values(offered: Offered, step: int | float, grid: int | float) -> bool:
    """Whether every value of the slider is one that our form's step reaches (in either direction): a whole frame count, say, of 4k+1."""
    low = number_of(offered.entry.get("min"))
    distance = 0 if low is None else low - _start(offered)
    return _is_multiple(step, grid) and _is_multiple(distance, grid)


def _is_multiple(value: int | float, of: int | float) -> bool:
    rest = math.fmod(value, of)
    return min(abs(rest), abs(abs(rest) - of)) < _NEARLY


def number_of(value: Json) -> int | float | None:
    """The value as a number; None for anything else: a word, true, or a number that is too large to be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None
