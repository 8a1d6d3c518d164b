"""Compares a settings file with the server's rules: its models, their fixed parameters and what a form offers for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from command_line.settings.controls import Offered, compare_control, number_of
from command_line.settings.differences import Difference, Json, error, member, note, shown
from command_line.settings.found import FoundModel, Named, find_models, named_entries
from runtime.rules.catalogue import FIELDS, MODELS, FieldRule, FixedParameter, ModelRules
from runtime.rules.image_request import IMAGE_MODELS
from runtime.rules.values import ValueRefusedError, check_value

_RULES: Mapping[str, FieldRule] = {name: rule for rule in FIELDS for name in (rule.name, *rule.aliases)}


def compare(document: Json) -> list[Difference]:
    """Every difference of a file, in its order; then what it lacks."""
    found: dict[str, FoundModel] = {}
    differences: list[Difference] = []
    for model in find_models(document):
        rules = MODELS.get(model.id)
        if rules is None:
            differences += _unknown_model(model)
        elif model.id in found:
            message = f"{model.id} stands at {found[model.id].path or 'the top'} already; readers take one of them"
            differences.append(error(model.path, "model_twice", message, found=model.id))
        else:
            found[model.id] = model
            differences += _model(model, rules)
    missing = [rules for rules in MODELS.values() if rules.id not in found]
    differences += [
        error(member("models", rules.id), "missing_model", f"the server has the video model {rules.id} ({rules.name})") for rules in missing
    ]
    return differences


def _unknown_model(model: FoundModel) -> Iterator[Difference]:
    if model.id in IMAGE_MODELS or model.entry.get("type") == "image":
        yield note(model.path, "not_compared", "image models are outside this server's rules", found=model.id)
    elif not model.id:
        yield error(model.path, "model_without_id", f"say which model it is: {', '.join(MODELS)}")
    else:
        message = f"the server has no video model of this name, only {', '.join(MODELS)}"
        yield error(model.path, "unknown_model", message, found=model.id, expected=list(MODELS))


def _model(model: FoundModel, rules: ModelRules) -> Iterator[Difference]:
    yield from _kind_and_modes(model, rules)
    fixed = _entries(model, "fixed_parameters")
    parameters = _entries(model, "parameters")
    for one in (fixed, parameters):
        if isinstance(one, Difference):
            yield one
    fixed_entries = fixed if isinstance(fixed, list) else []
    yield from _fixed_parameters(model, rules, fixed_entries)
    held = {_RULES[one.name].name for one in fixed_entries if one.name in _RULES}
    yield from _parameters(model, rules, parameters if isinstance(parameters, list) else [], held)


def _kind_and_modes(model: FoundModel, rules: ModelRules) -> Iterator[Difference]:
    kind = model.entry.get("type", rules.type)
    if kind != rules.type:
        yield error(member(model.path, "type"), "wrong_value", f"must be {shown(rules.type)}", found=kind, expected=rules.type)
    modes, path, ours = model.entry.get("modes"), member(model.path, "modes"), list[Json](rules.modes)
    if isinstance(modes, list):
        refused = [mode for mode in modes if mode not in ours]
        if refused:
            yield error(path, "option_refused", f"the server refuses {', '.join(map(shown, refused))}", found=modes, expected=ours)
        left_out = [mode for mode in ours if mode not in modes]
        if left_out:
            yield note(path, "option_left_out", f"the server also has {', '.join(map(shown, left_out))}", found=modes, expected=ours)
    elif "modes" in model.entry:
        yield error(path, "wrong_type", "must be a list of modes", found=modes, expected=ours)
    default, path = model.entry.get("default_mode", rules.default_mode), member(model.path, "default_mode")
    if default not in ours:
        yield error(path, "default_refused", f"must be one of {shown(ours)}", found=default, expected=rules.default_mode)
    elif default != rules.default_mode:
        yield note(path, "other_default", f"the server's is {shown(rules.default_mode)}", found=default, expected=rules.default_mode)


def _entries(model: FoundModel, name: str) -> list[Named] | Difference:
    """The named entries, or what is wrong with the whole; nothing at all is an empty list: each entry is then missed by its name."""
    if name not in model.entry:
        return []
    value, path = model.entry[name], member(model.path, name)
    entries = named_entries(value, path)
    if entries is None:
        return error(path, "wrong_type", "must be an object by parameter, or a list of objects with `name`", found=value)
    return entries


def _fixed_parameters(model: FoundModel, rules: ModelRules, entries: list[Named]) -> Iterator[Difference]:
    seen: set[str] = set()
    for one in entries:
        rule = _RULES.get(one.name)
        if rule is None:
            yield _unknown(one)
            continue
        name, aliased = _meant(one, rule, rules, entries)
        if aliased:
            yield note(one.path, "alias", f"the server takes {one.name} for {name}", found=one.name, expected=name)
        if name in seen:
            yield error(one.path, "parameter_twice", f"{name} stands above already", found=one.name)
        seen.add(name)
        fixed = rules.fixed_parameters.get(name)
        yield from _fixed(one, fixed) if fixed is not None else _fixed_by_the_file_only(one, rule, rules)
    for name, fixed in rules.fixed_parameters.items():
        if name not in seen:
            path = member(member(model.path, "fixed_parameters"), name)
            wanted: Json = {"value": fixed.value, "locked": fixed.locked}
            message = f"{rules.id} renders with {name} {fixed.value} only: list it, locked"
            yield error(path, "missing_fixed_parameter", message, expected=wanted)


def _meant(one: Named, rule: FieldRule, rules: ModelRules, entries: list[Named]) -> tuple[str, bool]:
    """The field that the entry means, and whether under another name: an alias, or a stand-in where the field itself is not listed."""
    for name, stand_in in rules.stand_ins.items():
        if stand_in == rule.name and not any(_RULES.get(other.name) is _RULES[name] for other in entries):
            return name, True
    return rule.name, one.name != rule.name


def _fixed(one: Named, fixed: FixedParameter) -> Iterator[Difference]:
    if not isinstance(one.entry, dict):
        wanted: Json = {"value": fixed.value, "locked": fixed.locked}
        yield error(one.path, "wrong_type", "must be an object with value and locked", found=one.entry, expected=wanted)
        return
    path, value = member(one.path, "value"), one.entry.get("value")
    if "value" not in one.entry:
        yield error(path, "missing_value", f"must be {shown(fixed.value)}", expected=fixed.value)
    elif number_of(value) is None:
        yield error(path, "wrong_type", f"must be the number {shown(fixed.value)}, it is {shown(value)}", found=value, expected=fixed.value)
    elif value != fixed.value:
        message = f"must be {shown(fixed.value)}: the server refuses {shown(value)}"
        yield error(path, "wrong_value", message, found=value, expected=fixed.value)
    locked = one.entry.get("locked")
    if locked is not fixed.locked:
        message = f"must be {shown(fixed.locked)}: a form must not offer what the server refuses"
        kind = "unlocked" if locked in (None, False) else "wrong_type"
        yield error(member(one.path, "locked"), kind, message, found=locked, expected=fixed.locked)


def _fixed_by_the_file_only(one: Named, rule: FieldRule, rules: ModelRules) -> Iterator[Difference]:
    value = one.entry.get("value") if isinstance(one.entry, dict) else one.entry
    try:
        check_value(rule, value, rules.modes)
    except ValueRefusedError as refused:
        yield error(member(one.path, "value"), "value_refused", f"the server refuses {shown(value)}: it {refused}", found=value)
        return
    if not rule.is_used_by(rules.id) and value != rule.default:
        yield _no_effect(one, rules)
    else:
        yield note(one.path, "not_fixed_by_server", "the server takes other values too", found=value)


def _parameters(model: FoundModel, rules: ModelRules, entries: list[Named], held: set[str]) -> Iterator[Difference]:
    seen: set[str] = set()
    for one in entries:
        rule = _RULES.get(one.name)
        if rule is None:
            yield _unknown(one)
            continue
        if one.name != rule.name:
            yield note(one.path, "alias", f"the server takes {one.name} for {rule.name}", found=one.name, expected=rule.name)
        if rule.name in seen:
            yield error(one.path, "parameter_twice", f"{rule.name} stands above already", found=one.name)
        seen.add(rule.name)
        yield from _parameter(one, rule, rules)
    for name, control in rules.form_controls.items():
        if name in seen or name in held:
            continue
        path, wanted = member(member(model.path, "parameters"), name), _as_json(control.to_json())
        if control.is_expected:
            yield error(path, "missing_parameter", f"a form for {rules.id} offers it", expected=wanted)
        else:
            yield note(path, "missing_parameter", "our form also offers it; left out, the server's default holds", expected=wanted)


def _parameter(one: Named, rule: FieldRule, rules: ModelRules) -> Iterator[Difference]:
    fixed, ours = rules.fixed_parameters.get(rule.name), rules.form_controls.get(rule.name)
    if fixed is not None:
        message = f"the server refuses any value but {fixed.value}: list it under fixed_parameters, not here"
        yield error(one.path, "offers_fixed_parameter", message, found=one.entry, expected=None)
    elif rule.name in rules.stand_ins.values():
        message = f"for {rules.id} it means a fixed parameter, and the server refuses any other value: leave it out"
        yield error(one.path, "offers_fixed_parameter", message, found=one.entry)
    elif not rule.is_used_by(rules.id):
        yield _no_effect(one, rules)
    elif ours is None:
        yield note(one.path, "not_compared", "our form has no such control; the server checks the values themselves", found=one.name)
    elif not isinstance(one.entry, dict):
        message = "must be an object with default, min, max and step, or default and options"
        yield error(one.path, "wrong_type", message, found=one.entry, expected=_as_json(ours.to_json()))
    else:
        yield from compare_control(Offered(path=one.path, entry=one.entry, rule=rule, choices=rules.modes, ours=ours))


def _no_effect(one: Named, rules: ModelRules) -> Difference:
    return error(one.path, "no_effect", f"{rules.id} does not use it: the form offers what changes nothing; leave it out", found=one.name)


def _unknown(one: Named) -> Difference:
    return error(
        one.path, "unknown_parameter", "the server does not know it and ignores it: correct the name or leave it out", found=one.name
    )


def _as_json(control: dict[str, object]) -> dict[str, Json]:
    return {name: value for name, value in control.items() if isinstance(value, str | int | float | list)}
