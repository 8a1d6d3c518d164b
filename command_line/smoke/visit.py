"""What the checks of one run share: the keys, what was made so far, and the duty to take all of it away again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from command_line.smoke.deployment import SUBMIT_TIMEOUT_S, Deployment, Reply
from command_line.smoke.outcome import CheckFailedError, CheckSkippedError

PROMPT = "a paper boat on a quiet lake, checked by warmlane smoke"

_NO_TASK_ID = "202 without a task_id"
# A reply that is on its way when the run is interrupted: it names what must be taken away.
_GRACE_S = 3.0
_DELETES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A clip that was rendered."""

    task_id: str
    model: str
    status: Mapping[str, Any]


@dataclass(slots=True, kw_only=True)
class Visit:
    """One run.

    Attributes:
        api_key, admin_key: None: not given, and what needs them is skipped.
        render_timeout_s: for one clip, from its acceptance to done.
        poll_s: between two looks at a status.
        tell: shows people what goes on; nothing that is said is a result.
        session: the cookie of the session, once there is one.
        clips: what was rendered so far.
        made: tasks that are still to be taken away.
        followed: what was found of the events of the first clip, while it was rendered; None: nothing was followed yet.
    """

    deployment: Deployment
    api_key: str | None = None
    admin_key: str | None = None
    render_timeout_s: float = 900.0
    poll_s: float = 0.5
    tell: Callable[[str], None] = lambda _text: None
    session: str | None = None
    clips: list[Clip] = field(default_factory=list)
    made: dict[str, None] = field(default_factory=dict)
    followed: CheckFailedError | str | None = None

    def credential(self) -> dict[str, str]:
        """Headers that open the protected paths: the key, else the session."""
        if self.api_key is not None:
            return {"X-API-Key": self.api_key}
        if self.session is not None:
            return {"Cookie": self.session}
        msg = "there is no credential: no API key was given, and no session could be opened"
        raise CheckSkippedError(msg)

    async def call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Reply:
        """A call with the credential."""
        return await self.deployment.call(method, path, headers={**self.credential(), **(headers or {})}, body=body)

    async def submit(self, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None, grace_s: float = _GRACE_S) -> Reply:
        """POST /generate; a task that it makes is remembered, also when the run is interrupted meanwhile."""
        credential = {**self.credential(), **(headers or {})}
        call = asyncio.ensure_future(self.deployment.call("POST", "/generate", headers=credential, body=body, timeout_s=SUBMIT_TIMEOUT_S))
        try:
            reply = await asyncio.shield(call)
        except asyncio.CancelledError:
            with suppress(TimeoutError, CheckFailedError):
                async with asyncio.timeout(grace_s):
                    self._remember(await call)
            raise
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        self._remember(reply)
        return reply

    async def accepted(self, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> str:
        """The id of the task that a good request makes."""
        reply = await self.submit(body, headers=headers)
        document = reply.expect(202, "Look at the lanes: `warmlane lanes`; a deployment that is busy answers 503 queue_overloaded.")
        task_id = document.get("task_id")
        if not isinstance(task_id, str) or document.get("status") != "pending":
            raise CheckFailedError(f"POST /generate answered {_NO_TASK_ID} and the status pending", "Compare the bridge's version.")
        return task_id

    def _remember(self, reply: Reply) -> None:
        if reply.status == 202:
            with suppress(CheckFailedError):
                task_id = reply.document().get("task_id")
                if isinstance(task_id, str):
                    self.made[task_id] = None

    async def take_away(self, task_ids: list[str]) -> None:
        """Deletes the tasks, cancelling those that run; what could not be deleted stays in `made`."""
        places = asyncio.Semaphore(_DELETES_AT_ONCE)

        async def delete(task_id: str) -> None:
            async with places:
                with suppress(CheckFailedError, CheckSkippedError):
                    reply = await self.call("DELETE", f"/gallery/{task_id}")
                    if reply.status in (200, 404):
                        self.made.pop(task_id, None)

        await asyncio.gather(*(delete(task_id) for task_id in task_ids))


def small_clip(model: str, **fields: Any) -> dict[str, Any]:
    """The smallest clip that every lane renders."""
    return {"model": model, "prompt": PROMPT, "width": 256, "height": 256, "num_frames": 9, "fps": 8, **fields}
