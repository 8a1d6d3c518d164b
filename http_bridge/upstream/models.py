"""The image models that the upstream offers, asked for at most every few seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from http_bridge.errors import HttpError
from http_bridge.upstream.client import Call, UpstreamClient
from http_bridge.upstream.convert import model_item
from runtime.rules.image_request import IMAGE_MODELS

if TYPE_CHECKING:
    from http_bridge.schemas import ModelItem

# The list changes when somebody deploys.
_KEPT_S = 10.0
# A list of models is good without images: nobody waits for them for long.
_TIMEOUT_S = 2.0


class ImageModelList:
    """Only models that POST /generate takes. While the upstream does not answer there are none, as far as anybody can tell."""

    def __init__(self, client: UpstreamClient, *, now_s: Callable[[], float] = time.monotonic) -> None:
        """Over this client; `now_s` says how old the list is."""
        self._client = client
        self._now_s = now_s
        self._models: Sequence[ModelItem] = ()
        self._until_s = float("-inf")
        self._asking = asyncio.Lock()

    async def read(self) -> Sequence[ModelItem]:
        """The models; callers that come together ask once."""
        async with self._asking:
            if self._now_s() >= self._until_s:
                self._models = await self._asked()
                self._until_s = self._now_s() + _KEPT_S
            return self._models

    async def _asked(self) -> Sequence[ModelItem]:
        call = Call(name="models", method="GET", path="/models", timeout_s=min(_TIMEOUT_S, self._client.timeout_s))
        try:
            found = (await self._client.call(call)).body().get("models")
        except HttpError:
            return ()
        read = [model_item(item) for item in found] if isinstance(found, list) else []
        by_id = {model.id: model for model in read if model is not None and model.type == "image" and model.id in IMAGE_MODELS}
        return tuple(by_id.values())
