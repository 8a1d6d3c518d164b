"""GET /models: the rule set, as every door of this system checks it, what fits on the GPUs behind it, and the image upstream's models."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from warmlane.admission.v1.admission_service_pb2 import Model

from http_bridge.auth import CallerDependency
from http_bridge.client import AdmissionClient
from http_bridge.context import bridge_of
from http_bridge.convert import model_limits
from http_bridge.request_schema import http_schema
from http_bridge.schemas import FixedParameter, ModelItem, ModelsReply
from runtime.errors import ServiceError
from runtime.rules.catalogue import MODELS

router = APIRouter(tags=["models"])


@router.get("/models")
async def models(request: Request, _caller: CallerDependency) -> ModelsReply:
    """The models with their modes, fixed parameters, the JSON Schema of a request, the longest clips of common sizes, and what t2v uses.

    Image models of a server of their own stand behind them, while it answers.
    """
    bridge = bridge_of(request)
    told = await _told(bridge.client)
    images = await bridge.images.models.read() if bridge.images is not None else ()
    return ModelsReply(
        models=[
            *(
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
                    limits=model_limits(told[rules.id]) if rules.id in told else None,
                    text_to_video_weights=list(told[rules.id].text_to_video_weights) if rules.id in told else [],
                )
                for rules in MODELS.values()
            ),
            *images,
        ]
    )


async def _told(client: AdmissionClient) -> Mapping[str, Model]:
    """What admission says of each model, by id; empty while it does not answer: the rules hold all the same."""
    try:
        return {model.id: model for model in await client.list_models()}
    except ServiceError:
        return {}
