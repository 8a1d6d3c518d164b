"""The variant of a prepared checkpoint, by the folder's manifest: it decides how a model is sampled."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from runtime.lane.wan.headers import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

_MANIFEST = "manifest.json"


def checkpoint_variant(folder: Path) -> str:
    """The variant of the checkpoint in a model's folder, such as `mega-v12`; empty where no manifest tells one (tiny parts).

    Raises:
        WeightsError: there is a manifest and it cannot be read.
    """
    file = folder / _MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        msg = f"{file} cannot be read: {error}"
        raise WeightsError(msg) from error
    variant = content.get("variant", "") if isinstance(content, dict) else ""
    if not isinstance(variant, str):
        msg = f"{file} has a variant that is no text"
        raise WeightsError(msg)
    return variant
