"""JSON Schema of a model's parameters, made from the catalogue, so that forms and documents cannot drift from the check."""

from __future__ import annotations

from runtime.rules.catalogue import FIELDS, IMAGE_KEY_PATTERN, KEYFRAME_FIELDS, MODELS, MODES, FieldRule, Kind, ModelRules
from runtime.rules.values import BLANKS, CONTROL_CHARACTERS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
"""What a schema of ours says it is written in."""

DATA_URI_PATTERN = "^data:image/(png|jpeg|webp);base64,"
"""How a picture begins in a JSON body."""


def parameters_schema(model_id: str) -> dict[str, object]:
    """JSON Schema (2020-12) of a `/generate` body for one model.

    It accepts what the check accepts, but for null (the check takes it for absent) and for what a schema cannot say: a keyframe below the
    frame count, and no two at one position.

    Raises:
        KeyError: there is no such model.
    """
    model = MODELS[model_id]
    properties: dict[str, object] = {}
    for rule in FIELDS:
        for name in (rule.name, *rule.aliases):
            properties[name] = field_schema(rule, model)
    return {
        "$schema": DIALECT,
        "title": model.name,
        "type": "object",
        "required": [rule.name for rule in FIELDS if rule.required],
        "properties": properties,
        "allOf": [*_mode_conditions(model), *_meant_mode_conditions(model), *_stand_in_conditions(model)],
    }


def field_schema(rule: FieldRule, model: ModelRules) -> dict[str, object]:
    """JSON Schema of one field for one model."""
    schema: dict[str, object] = {"description": _description(rule, model), **_shape(rule, model)}
    fixed = model.fixed_parameters.get(rule.name)
    default = model.default_mode if rule.name == "mode" else rule.default if fixed is None else fixed.value
    if default is not None:
        schema["default"] = default
    if not rule.is_used_by(model.id):
        # For forms; JSON Schema leaves such names to whoever makes them.
        schema["x-unused"] = True
    return schema


def _description(rule: FieldRule, model: ModelRules) -> str:
    return rule.description if rule.is_used_by(model.id) else f"{rule.description} Not used by {model.id}."


def _shape(rule: FieldRule, model: ModelRules) -> dict[str, object]:
    fixed = model.fixed_parameters.get(rule.name)
    if fixed is not None:
        return {"type": _json_type(rule), "const": fixed.value}
    match rule.kind:
        case Kind.TEXT:
            return _text(rule)
        case Kind.CHOICE:
            return {"type": "string", "enum": _options(rule, model)}
        case Kind.INTEGER | Kind.NUMBER:
            return _number(rule)
        case Kind.IMAGE:
            return _image()
        case Kind.KEYFRAMES:
            return _keyframes(rule, model)


def _options(rule: FieldRule, model: ModelRules) -> list[str]:
    if rule.name == "model":
        return [model.id]
    return list(rule.options or model.modes)


def _json_type(rule: FieldRule) -> str:
    return "integer" if rule.kind is Kind.INTEGER else "number"


def _number(rule: FieldRule) -> dict[str, object]:
    schema: dict[str, object] = {"type": _json_type(rule)}
    if rule.minimum is not None:
        schema["minimum"] = rule.minimum
    if rule.maximum is not None:
        schema["maximum"] = rule.maximum
    return schema


def _text(rule: FieldRule) -> dict[str, object]:
    allowed = f"[^{CONTROL_CHARACTERS}]"
    # Not \\s: what that means differs between validators.
    pattern = f"^{allowed}*[^{CONTROL_CHARACTERS}{BLANKS}]{allowed}*$" if rule.minimum else f"^{allowed}*$"
    return {"type": "string", "minLength": rule.minimum, "maxLength": rule.maximum, "pattern": pattern}


def _image() -> dict[str, object]:
    reference = {"type": "object", "required": ["key"], "properties": {"key": {"type": "string", "pattern": f"^{IMAGE_KEY_PATTERN}$"}}}
    return {
        "anyOf": [
            {"type": "string", "pattern": DATA_URI_PATTERN, "description": "Over HTTP: the picture itself, at most 12 MiB decoded."},
            {**reference, "description": "Over gRPC: the reference that UploadInput gave."},
        ]
    }


def _keyframes(rule: FieldRule, model: ModelRules) -> dict[str, object]:
    entry = {
        "type": "object",
        "required": [part.name for part in KEYFRAME_FIELDS if part.required],
        "properties": {part.name: field_schema(part, model) for part in KEYFRAME_FIELDS},
    }
    return {"type": "array", "maxItems": rule.maximum, "items": entry}


def _mode_conditions(model: ModelRules) -> list[dict[str, object]]:
    """What each mode requires, for a body that names the mode."""
    return [
        {"if": {"required": ["mode"], "properties": {"mode": {"const": mode}}}, "then": _requires(MODES[mode].images)}
        for mode in model.modes
        if MODES[mode].images
    ]


def _meant_mode_conditions(model: ModelRules) -> list[dict[str, object]]:
    """What a body without a mode requires, by the mode that its images mean."""
    conditions: list[dict[str, object]] = []
    earlier: list[object] = []
    for mode in model.modes_by_images():
        images = MODES[mode].images
        sent: dict[str, object] = {"anyOf": [_requires((name,)) for name in images]}
        meant: dict[str, object] = {"allOf": [{"not": _given("mode")}, sent, *({"not": other} for other in earlier)]}
        conditions.append({"if": meant, "then": _requires(images)})
        earlier.append(sent)
    return conditions


def _given(name: str) -> dict[str, object]:
    """The field is there; null counts as absent wherever a schema lets it in."""
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _requires(images: tuple[str, ...]) -> dict[str, object]:
    """The image fields are there, lists not empty."""
    lists = {rule.name for rule in FIELDS if rule.kind is Kind.KEYFRAMES}
    properties = {name: {"not": {"type": "null"}, **({"minItems": 1} if name in lists else {})} for name in images}
    return {"required": list(images), "properties": properties}


def _stand_in_conditions(model: ModelRules) -> list[dict[str, object]]:
    """A field that stands for an absent fixed one must have its value."""
    conditions: list[dict[str, object]] = []
    for rule in FIELDS:
        stand_in = model.stand_ins.get(rule.name)
        if stand_in is None:
            continue
        named = {"anyOf": [_given(name) for name in (rule.name, *rule.aliases)]}
        value = model.fixed_parameters[rule.name].value
        conditions.append({"if": {"not": named}, "then": {"properties": {stand_in: {"enum": [value, None]}}}})
    return conditions
