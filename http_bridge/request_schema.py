"""The JSON Schema of POST /generate, made from the rule sets, with images as HTTP sends them."""

from __future__ import annotations

from typing import Any, cast

from runtime.rules.catalogue import MODELS
from runtime.rules.image_request import image_request_schema
from runtime.rules.schema import parameters_schema


def http_schema(model_id: str) -> dict[str, Any]:
    """The schema of one model's parameters; images are data URIs only, references belong to gRPC."""
    return cast("dict[str, Any]", _data_uris_only(parameters_schema(model_id)))


def request_body() -> dict[str, Any]:
    """The OpenAPI request body of POST /generate: one schema per video model and one for image models, told apart by `model`."""
    schemas = [_embedded(schema) for schema in (*(http_schema(model_id) for model_id in MODELS), image_request_schema())]
    return {"required": True, "content": {"application/json": {"schema": {"oneOf": schemas}}}}


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
