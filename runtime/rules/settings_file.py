"""The frontend's settings file for the video models, made from the rule set. `python -m runtime.rules.settings_file` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from runtime.rules.catalogue import MODELS, ModelRules

SHIPPED = Path(__file__).with_name("inference_settings.json")
"""In the wheel, beside the rules that it is made from."""


def settings_document() -> dict[str, object]:
    """The file's content as JSON values: for each model its fixed parameters, and what a form offers for the others."""
    return {"models": {rules.id: _model(rules) for rules in MODELS.values()}}


def settings_text() -> str:
    """The file's text."""
    return json.dumps(settings_document(), indent=2, ensure_ascii=False) + "\n"


def _model(rules: ModelRules) -> dict[str, object]:
    return {
        "name": rules.name,
        "type": rules.type,
        "category": rules.category,
        "modes": list(rules.modes),
        "default_mode": rules.default_mode,
        "fixed_parameters": {name: {"value": fixed.value, "locked": fixed.locked} for name, fixed in rules.fixed_parameters.items()},
        "parameters": {name: control.to_json() for name, control in rules.form_controls.items()},
    }


if __name__ == "__main__":
    SHIPPED.write_text(settings_text(), encoding="utf-8")
