"""Ids of image tasks as clients see them: the upstream's id behind a prefix and, in a private gallery, a proof of whose it is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from runtime.errors import ErrorCode, ServiceError

PREFIX = "image-"
"""Tells an image task from a video: no id of admission begins so."""

KEY_OWNER = "key"
"""Owner of what is asked for with the API key; it sees everything."""

_UPSTREAM_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
# A dot is in no id: what stands behind it is the proof.
_PUBLIC_ID = re.compile(rf"{PREFIX}([0-9A-Za-z_-]{{1,64}})(?:\.([0-9A-Za-z_-]{{22}}))?")
# 128 bits, which are 22 letters of base64.
_PROOF_BYTES = 16


def is_upstream_id(text: object) -> bool:
    """Whether a path may be made with it: nothing that could lead to another path is in it."""
    return isinstance(text, str) and _UPSTREAM_ID.fullmatch(text) is not None


class ImageIds:
    """Turns ids of the upstream into ours and back.

    The upstream knows one caller, the bridge, and not its users. In a private gallery the id of a session's task therefore carries a proof,
    which only this session's id and the bridges' secret give: nothing is stored, and every bridge with the same keys can check it.
    """

    def __init__(self, secret: bytes, *, is_private: bool) -> None:
        """`secret`: the same in every bridge, known to nobody else."""
        self._secret = secret
        self._is_private = is_private

    def public(self, upstream_id: str, owner: str) -> str:
        """What the owner of a new task is told."""
        if not self._is_private or owner == KEY_OWNER:
            return PREFIX + upstream_id
        return f"{PREFIX}{upstream_id}.{self._proof(upstream_id, owner)}"

    def upstream(self, public_id: str, owner: str) -> str:
        """The upstream's id of a task that this caller may see.

        Raises:
            ServiceError: `task_not_found`, it is no such id or another's.
        """
        match = _PUBLIC_ID.fullmatch(public_id)
        if match is None:
            raise not_found()
        upstream_id, proof = match.groups()
        if self._is_private and owner != KEY_OWNER and not hmac.compare_digest(proof or "", self._proof(upstream_id, owner)):
            raise not_found()
        return str(upstream_id)

    def request_key(self, key: str, owner: str) -> str:
        """An Idempotency-Key for the upstream: two callers' equal keys never meet there, and nobody can guess another's."""
        return self._digest("request", owner, key).hex()

    def may_list(self, owner: str) -> bool:
        """Whether this caller sees the upstream's gallery: it holds everyone's images, and cannot tell whose they are."""
        return not self._is_private or owner == KEY_OWNER

    def _proof(self, upstream_id: str, owner: str) -> str:
        digest = self._digest("owner", owner, upstream_id)[:_PROOF_BYTES]
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _digest(self, *parts: str) -> bytes:
        # No part but the last may hold a zero byte, so no two lists of parts give one text.
        return hmac.digest(self._secret, "\0".join(parts).encode(), hashlib.sha256)


def shared_secret(*keys: str) -> bytes:
    """A secret that every bridge with the same keys has."""
    return hashlib.sha256("\0".join(("warmlane image ids", *keys)).encode()).digest()


def not_found() -> ServiceError:
    """What is said of a task that is not there, and of one that is another's."""
    return ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="There is no such task.")
