"""Whether the folders of the models can be opened by lanes, by names and sizes; `prepare --check` reads every byte."""

from __future__ import annotations

from collections.abc import Iterable

from command_line.doctor.finding import Case, Finding, failed, ok, skipped
from command_line.doctor.probes import Probes
from runtime.rules.catalogue import MODELS
from runtime.survey import SurveyOrder


def check_weights(case: Case, probes: Probes) -> Iterable[Finding]:
    """Each model's prepared folder."""
    if case.is_tiny:
        yield skipped("weights", "the profile tiny makes its weights at the start")
        return
    survey = probes.survey(SurveyOrder(models_dir=case.models_dir.absolute(), models=tuple(MODELS)))
    for model in MODELS:
        problem = survey.weights.get(model, "it was not looked at")
        if not problem:
            yield ok(f"weights.{model}", f"{case.models_dir / model} is whole, by names and sizes")
            continue
        is_there = (case.models_dir / model / "manifest.json").exists()
        how = f"prepare {model} --check" if is_there else f"prepare {model}"
        yield failed(f"weights.{model}", problem, f"`warmlane {how} --models-dir {case.models_dir}`")
