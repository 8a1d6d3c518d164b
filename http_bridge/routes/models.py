"""GET /models: the rule set, as every door of this system checks it."""

from __future__ import annotations

from fastapi import APIRouter

from http_bridge.auth import CallerDependency
from http_bridge.request_schema import http_schema
from http_bridge.schemas import FixedParameter, ModelItem, ModelsReply
from runtime.rules.catalogue import MODELS

router = APIRouter(tags=["models"])


@router.get("/models")
async def models(_caller: CallerDependency) -> ModelsReply:
    """The models with their modes, fixed parameters and the JSON Schema of a request."""
    return ModelsReply(
        models=[
            ModelItem(
                id=rules.id,
                name=rules.name,
                type=rules.type,
                category=rules.category,
                description=rules.description,
                modes=list(rules.modes),
                default_mode=rules.default_mode,
                fixed_parameters={
                    name: FixedParameter(value=fixed.value, locked=fixed.locked) for name, fixed in rules.fixed_parameters.items()
                },
                parameters_schema=http_schema(rules.id),
            )
            for rules in MODELS.values()
        ]
    )
