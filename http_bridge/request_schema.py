"""The JSON Schema of POST /generate, made from the rule set, with images as HTTP sends them."""

from __future__ import annotations

from typing import Any, cast

from runtime.rules.catalogue import MODELS
from runtime.rules.schema import parameters_schema

# Words about a value that stand beside its alternatives.
_NOTES = ("description", "default")


def http_schema(model_id: str) -> dict[str, Any]:
    """The schema of one model's parameters; images are data URIs only, references belong to gRPC."""
    return cast("dict[str, Any]", _data_uris_only(parameters_schema(model_id)))


def request_body() -> dict[str, Any]:
    """The OpenAPI request body of POST /generate: one schema per model, told apart by `model`.

    It takes what the bridge takes: null counts as absent, and a picture that the mode does not use is not looked at.
    """
    schemas = [{name: value for name, value in http_schema(model_id).items() if name != "$schema"} for model_id in MODELS]
    one_of = [_strict_where_used(_nullable(schema)) for schema in schemas]
    return {"required": True, "content": {"application/json": {"schema": {"oneOf": one_of}}}}


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


def _strict_where_used(schema: dict[str, Any]) -> dict[str, Any]:
    """What a picture must look like is moved into the conditions of the modes that use it."""
    loose = {name: _any_text(value) for name, value in schema["properties"].items()}
    strict = {name: _value(value) for name, value in schema["properties"].items() if loose[name] != value}
    return {**schema, "properties": loose, "allOf": [_with_pictures(condition, strict) for condition in schema["allOf"]]}


def _any_text(schema: dict[str, Any]) -> dict[str, Any]:
    if _is_data_uri(schema):
        return {name: value for name, value in schema.items() if name != "pattern"}
    return {name: _any_text(value) if isinstance(value, dict) else value for name, value in schema.items()}


def _with_pictures(condition: dict[str, Any], strict: dict[str, dict[str, Any]]) -> dict[str, Any]:
    needs = [
        {**part, "properties": {name: {**strict.get(name, {}), **value} for name, value in part["properties"].items()}}
        for part in condition["then"].get("allOf", [])
    ]
    return {**condition, "then": {**condition["then"], "allOf": needs}} if needs else condition


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object whose optional properties may be null, those of its entries too."""
    required = schema.get("required", [])
    properties = {
        name: _with_entries(value) if name in required else _or_null(_with_entries(value)) for name, value in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def _with_entries(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "items": _nullable(schema["items"])} if "items" in schema else schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    nullable = {**schema, "type": [schema["type"], "null"]}
    if "const" in nullable:
        nullable["enum"] = [nullable.pop("const")]
    if "enum" in nullable:
        nullable["enum"] = [*nullable["enum"], None]
    return nullable


def _value(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in schema.items() if name not in _NOTES}
