"""How long renders take, learned from those that ended; with nothing measured yet it says nothing."""

from __future__ import annotations

from admission.core.tasks import Model, Task

# Weight of the newest render in the running mean: follows a change of placement within a few renders, and one odd render does not tip it.
_NEWEST = 0.3


class RenderTimes:
    """Seconds per latent token of a model, as a running mean. Activations and time of a denoising step grow with the tokens."""

    def __init__(self) -> None:
        """Nothing measured."""
        self._seconds_per_token: dict[Model, float] = {}

    def observe(self, task: Task, render_s: float) -> None:
        """Learns from a finished render."""
        if render_s <= 0 or task.tokens <= 0:
            return
        measured = render_s / task.tokens
        known = self._seconds_per_token.get(task.model)
        self._seconds_per_token[task.model] = measured if known is None else known + _NEWEST * (measured - known)

    def seconds_per_token(self, model: Model) -> float | None:
        """Of a whole render; None when nothing of the model was measured."""
        return self._seconds_per_token.get(model)

    def predicted_s(self, task: Task) -> float | None:
        """Seconds the whole render will take; None when nothing of the model was measured."""
        per_token = self._seconds_per_token.get(task.model)
        return None if per_token is None else per_token * task.tokens

    def remaining_s(self, task: Task) -> float | None:
        """Seconds a running render still needs, by its progress."""
        whole = self.predicted_s(task)
        return None if whole is None else whole * (100 - task.progress) / 100
