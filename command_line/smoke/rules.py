"""Checks of the rules: /models says those of this version, and what breaks them is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from command_line.smoke.outcome import CheckFailedError
from command_line.smoke.visit import Visit, small_clip
from runtime.rules.catalogue import FIELDS, MODELS, Kind, ModelRules
from runtime.rules.schema import parameters_schema

_VERSIONS = "Use the `warmlane` of the deployment's version, or deploy this version."
# Their schemas differ by the door: data URIs over HTTP, references over gRPC.
_IMAGES = frozenset(rule.name for rule in FIELDS if rule.kind in (Kind.IMAGE, Kind.KEYFRAMES))
_NO_TASK = "0" * 32
_ADVICE = "Look whether a proxy before the bridge answers in its place."


async def models(visit: Visit) -> str:
    """/models lists our models with the rules of this version; others beside them are welcome."""
    listed = (await visit.call("GET", "/models")).expect(200).get("models")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise CheckFailedError("GET /models has no list `models`", _VERSIONS)
    by_id = {one.get("id"): one for one in listed}
    differences = [difference for rules in MODELS.values() for difference in _differences(rules, by_id.get(rules.id))]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckFailedError(f"/models differs from the rules here in {', '.join(differences[:3])}{more}", _VERSIONS)
    return f"{', '.join(MODELS)} with the rules of this version"


def _differences(rules: ModelRules, told: Mapping[str, Any] | None) -> list[str]:
    if told is None:
        return [rules.id]
    expected: dict[str, object] = {
        "type": rules.type,
        "modes": list(rules.modes),
        "default_mode": rules.default_mode,
        "fixed_parameters": {name: {"value": fixed.value, "locked": fixed.locked} for name, fixed in rules.fixed_parameters.items()},
    }
    different = [f"{rules.id}.{name}" for name, value in expected.items() if told.get(name) != value]
    schema = told.get("parameters_schema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    ours = parameters_schema(rules.id)["properties"]
    if not isinstance(properties, dict) or not isinstance(ours, dict):
        return [*different, f"{rules.id}.parameters_schema"]
    return different + [f"{rules.id}.{name}" for name in ours if name not in _IMAGES and properties.get(name) != ours[name]]


def fixed_parameters() -> list[tuple[str, str, str]]:
    """Model, fixed parameter, and each name under which a request may send it."""
    found = []
    for rules in MODELS.values():
        for rule in FIELDS:
            if rule.name in rules.fixed_parameters:
                stand_ins = (rules.stand_ins[rule.name],) if rule.name in rules.stand_ins else ()
                found += [(rules.id, rule.name, name) for name in (rule.name, *rule.aliases, *stand_ins)]
    return found


async def fixed_parameter(visit: Visit, model: str, parameter: str, name: str) -> str:
    """A wrong value of a fixed parameter is refused by its name, before anything is stored."""
    right = MODELS[model].fixed_parameters[parameter].value
    advice = "The rules are not enforced: do not serve this deployment; compare its version."
    for wrong in (right + 1, right - 1):
        reply = await visit.submit(small_clip(model, **{name: wrong}))
        detail = reply.refusal(422, "validation_error", advice)
        metadata = detail.get("metadata")
        fields = metadata.get("fields") if isinstance(metadata, dict) else None
        named = {one.get("field") for one in fields if isinstance(one, dict)} if isinstance(fields, list) else set()
        if named != {name}:
            raise CheckFailedError(f"the 422 for {name} = {wrong} of {model} names {sorted(map(str, named))}, not {name}", _VERSIONS)
    return f"422 for any {name} but {right:g}"


async def errors(visit: Visit) -> str:
    """Errors have the envelope, those of unknown paths too."""
    (await visit.call("GET", "/no-such-path")).refusal(404, "not_found", _ADVICE)
    (await visit.call("GET", f"/status/{_NO_TASK}")).refusal(404, "task_not_found", _ADVICE)
    (await visit.call("GET", "/gallery?per_page=101")).refusal(422, "validation_error", _ADVICE)
    return "unknown paths, unknown tasks and wrong queries have the error envelope"
