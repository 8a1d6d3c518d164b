"""Reads a file of sizes: networks of the published layout with other sizes than the published ones, for trials and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.lane.prepare.failures import Cause, PrepareError, listed


class SizesFile(BaseModel):
    """Fields of the networks' configurations that differ from the published ones, by part.

    Attributes:
        name: goes into the manifest, so that nobody takes the folder for the published model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    text_encoder: Mapping[str, Any] = {}
    vae: Mapping[str, Any] = {}
    transformer: Mapping[str, Any] = {}

    def by_part(self) -> dict[str, Mapping[str, Any]]:
        """As the plan takes them."""
        return {"text_encoder": self.text_encoder, "vae": self.vae, "transformer": self.transformer}


def read_sizes(path: Path) -> SizesFile:
    """Raises PrepareError when the file is not there or not a file of sizes."""
    try:
        sizes = SizesFile.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PrepareError(Cause.ASKED, f"--sizes {path}: {error.strerror}") from error
    except ValidationError as error:
        wrong = listed(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise PrepareError(Cause.ASKED, f"--sizes {path}: {wrong}") from error
    except ValueError as error:
        raise PrepareError(Cause.ASKED, f"--sizes {path}: it is no JSON") from error
    if sizes.name == "published":
        raise PrepareError(Cause.ASKED, f"--sizes {path}: another name than `published` is needed")
    return sizes
