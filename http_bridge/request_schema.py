"""The JSON Schema of POST /generate, made from the rule sets, with images as HTTP sends them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from runtime.rules.catalogue import FIELDS, MODELS, SINGLE_IMAGE_FIELDS, Kind
from runtime.rules.image_request import image_request_schema
from runtime.rules.schema import parameters_schema

_KEYFRAMES = next(rule.name for rule in FIELDS if rule.kind is Kind.KEYFRAMES)


def http_schema(model_id: str) -> dict[str, Any]:
    """The schema of one model's parameters, for forms; images are data URIs only, references belong to gRPC."""
    return cast("dict[str, Any]", _data_uris_only(parameters_schema(model_id)))


def request_body() -> dict[str, Any]:
    """The OpenAPI request body of POST /generate: one schema per video model and one for image models, told apart by `model`.

    It says exactly what is taken, where `http_schema` says what to send: null counts as absent, and a picture is looked at only where
    the mode uses it.
    """
    schemas = [*(_taken(model_id) for model_id in MODELS), _embedded(image_request_schema())]
    return {"required": True, "content": {"application/json": {"schema": {"oneOf": schemas}}}}


def _taken(model_id: str) -> dict[str, Any]:
    schema = http_schema(model_id)
    pattern = schema["properties"][SINGLE_IMAGE_FIELDS[0]]["pattern"]
    properties = {name: one if name in schema["required"] else _or_null(_unread(one)) for name, one in schema["properties"].items()}
    conditions = [{**one, "then": _read(one["then"], pattern)} for one in schema["allOf"]]
    return {
        "title": schema["title"],
        "type": "object",
        "required": schema["required"],
        "properties": properties,
        "allOf": conditions,
    }


def _or_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    made = {**schema, "type": [schema["type"], "null"]}
    if "enum" in made:
        made["enum"] = [*made["enum"], None]
    if "const" in made:
        made["enum"] = [made.pop("const"), None]
    return made


def _unread(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A picture that no mode has asked for yet: any text; of a keyframe, too. Everything else as it is."""
    if _is_data_uri(schema):
        return {name: value for name, value in schema.items() if name != "pattern"}
    items = schema.get("items")
    if items is None:
        return dict(schema)
    parts = {name: one if name in items["required"] else _or_null(one) for name, one in items["properties"].items()}
    return {**schema, "items": {**items, "properties": {name: _unread(one) for name, one in parts.items()}}}


def _read(then: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    """What a mode requires, its pictures being looked at."""
    properties = dict(then["properties"])
    for name, one in properties.items():
        if name in SINGLE_IMAGE_FIELDS:
            properties[name] = {**one, "pattern": pattern}
        elif name == _KEYFRAMES:
            properties[name] = {**one, "items": {"properties": {"image": {"pattern": pattern}}}}
    return {**then, "properties": properties}


def _embedded(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "$schema"}


def _data_uris_only(node: object) -> object:
    if isinstance(node, list):
        return [_data_uris_only(item) for item in node]
    if not isinstance(node, dict):
        return node
    choices = node.get("anyOf")
    if isinstance(choices, list) and any(_is_data_uri(choice) for choice in choices):
        uri = next(choice for choice in choices if _is_data_uri(choice))
        return {**{name: value for name, value in node.items() if name != "anyOf"}, **uri}
    return {name: _data_uris_only(value) for name, value in node.items()}


def _is_data_uri(schema: object) -> bool:
    return isinstance(schema, dict) and str(schema.get("pattern", "")).startswith("^data:")
