"""docs/loss-free.md names tests as proofs; every one of them exists."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PROOF = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_named_test_exists_when_the_page_names_it_as_proof() -> None:
    proofs = _PROOF.findall((_ROOT / "docs" / "loss-free.md").read_text(encoding="utf-8"))
    assert len(proofs) > 30
    missing = [f"{path}::{name}" for path, name in proofs if f"def {name}(" not in (_ROOT / path).read_text(encoding="utf-8")]
    assert missing == []
