"""How keys that callers send are compared with the right one."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import SecretStr


def is_right_key(sent: str, right: SecretStr) -> bool:
    """Whether a header's value is the key, in a time that says nothing of either."""
    # Digests first: the comparison then takes the same time whatever the lengths are. Headers are read as Latin-1: that gives their bytes.
    sent_digest = hashlib.sha256(sent.encode("latin-1", "replace")).digest()
    return hmac.compare_digest(sent_digest, hashlib.sha256(right.get_secret_value().encode()).digest())
