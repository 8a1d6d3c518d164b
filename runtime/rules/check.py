"""Turns what a client sent into a complete request, or says everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.rules.catalogue import FIELDS, KEYFRAME_FIELDS, MODELS, MODES, FieldRule, Kind, ModelRules
from runtime.rules.request import ArbitraryFrame, GenerationRequest, InvalidRequestError, Violation
from runtime.rules.values import ValueRefusedError, check_value, spell

# Fields that a request is checked by and does not carry.
_CHECKED_ONLY = frozenset({"type"})
_ALL_MODES = tuple(MODES)


def check_request(raw: Mapping[str, object]) -> GenerationRequest:
    """Checks every field and fills in the defaults.

    Names and aliases are those of the contract; unknown names are ignored, None counts as absent. Without a mode the images say which
    one is meant. Images are `ImageReference` or
    `{"key": "inputs/<64 hex>"}`. A field that the model does not use is checked and then held at its default; images that the mode does
    not use are checked and then left out.

    Raises:
        InvalidRequestError: with every violation, in field order.
    """
    return _Check(raw).run()


class _Check:
    """One run over one raw request; collects values and violations."""

    def __init__(self, raw: Mapping[str, object]) -> None:
        self._raw = raw
        model = raw.get("model")
        self._model: ModelRules | None = MODELS.get(model) if isinstance(model, str) else None
        self._values: dict[str, Any] = {}
        self._violations: list[Violation] = []
        # Names that were read in place of another field: they are judged there, once.
        self._stood_in: set[str] = set()

    def run(self) -> GenerationRequest:
        for rule in FIELDS:
            if rule.kind is Kind.KEYFRAMES:
                self._values[rule.name] = self._keyframes(rule)
            elif rule.name not in self._stood_in:
                self._values[rule.name] = self._field(rule)
        if self._model is not None:
            self._apply_model(self._model)
        if self._violations or self._model is None:
            raise InvalidRequestError(tuple(sorted(self._violations, key=_field_order)))
        return GenerationRequest(**{name: value for name, value in self._values.items() if name not in _CHECKED_ONLY})

    def _refuse(self, field: str, message: str) -> None:
        self._violations.append(Violation(field=field, message=message))

    def _field(self, rule: FieldRule) -> object:
        """The field's value under whichever of its names was sent; its default when none was."""
        names = self._sent_names(rule)
        if not names:
            if rule.required:
                self._refuse(rule.name, "is required")
            return self._default(rule)
        values = [self._value(rule, name) for name in names]
        return values[0]

    def _sent_names(self, rule: FieldRule) -> list[str]:
        names = [name for name in (rule.name, *rule.aliases) if self._raw.get(name) is not None]
        stand_in = self._model.stand_ins.get(rule.name) if self._model is not None else None
        if not names and stand_in is not None and self._raw.get(stand_in) is not None:
            self._stood_in.add(stand_in)
            return [stand_in]
        return names

    def _value(self, rule: FieldRule, name: str) -> object:
        options = self._model.modes if self._model is not None else _ALL_MODES
        try:
            value = check_value(rule, self._raw[name], options)
        except ValueRefusedError as error:
            self._refuse(name, f"{error}{self._fixed_hint(rule)}")
            return None
        fixed = self._model.fixed_parameters.get(rule.name) if self._model is not None else None
        if fixed is not None and value != fixed.value:
            self._refuse(name, f"must be {fixed.value}{self._fixed_hint(rule)}")
        return value

    def _fixed_hint(self, rule: FieldRule) -> str:
        fixed = self._model.fixed_parameters.get(rule.name) if self._model is not None else None
        if self._model is None or fixed is None:
            return ""
        return f": {self._model.id} renders with {rule.name} {fixed.value} only; leave the field out or send that value"

    def _default(self, rule: FieldRule) -> object:
        if self._model is None:
            return rule.default
        if rule.name == "mode":
            return self._meant_mode(self._model)
        fixed = self._model.fixed_parameters.get(rule.name)
        return rule.default if fixed is None else fixed.value

    def _meant_mode(self, model: ModelRules) -> str:
        """Without a mode the images say which one is meant: a picture that was sent is never dropped in silence."""
        for mode in model.modes_by_images():
            if any(self._raw.get(name) not in (None, [], ()) for name in MODES[mode].images):
                return mode
        return model.default_mode

    def _apply_model(self, model: ModelRules) -> None:
        """Holds what the model does not use at its default, leaves out the images that the mode does not use, requires those it does."""
        for rule in FIELDS:
            if rule.name in self._stood_in or not rule.is_used_by(model.id):
                self._values[rule.name] = rule.default
        mode = self._values["mode"]
        if mode is None:
            return
        images = MODES[mode].images
        for rule in FIELDS:
            if rule.kind not in (Kind.IMAGE, Kind.KEYFRAMES):
                continue
            if rule.name not in images:
                self._values[rule.name] = () if rule.kind is Kind.KEYFRAMES else None
            elif _is_absent(rule, self._raw.get(rule.name)):
                self._refuse(rule.name, f"is required for the mode {mode}")

    def _keyframes(self, rule: FieldRule) -> tuple[ArbitraryFrame, ...]:
        sent = self._raw.get(rule.name)
        if sent is None:
            return ()
        if not isinstance(sent, list | tuple):
            self._refuse(rule.name, "must be a list of {frame_index, image, strength}")
            return ()
        limit = int(rule.maximum or 0)
        if len(sent) > limit:
            self._refuse(rule.name, f"must have at most {limit} entries, it has {len(sent)}")
        frames: list[ArbitraryFrame] = []
        seen: set[int] = set()
        # What is beyond the limit is refused already; reading no further bounds the work on a hostile list.
        for number, entry in enumerate(sent[:limit]):
            frame = self._keyframe(f"{rule.name}[{number}]", entry)
            if frame is None:
                continue
            if frame.frame_index in seen:
                self._refuse(f"{rule.name}[{number}].frame_index", f"must differ from the entries before it; {frame.frame_index} is taken")
            seen.add(frame.frame_index)
            frames.append(frame)
        return tuple(frames)

    def _keyframe(self, path: str, entry: object) -> ArbitraryFrame | None:
        if not isinstance(entry, Mapping):
            self._refuse(path, "must be an object with frame_index, image and strength")
            return None
        before = len(self._violations)
        values: dict[str, Any] = {}
        for rule in KEYFRAME_FIELDS:
            sent = entry.get(rule.name)
            values[rule.name] = rule.default
            if sent is None:
                if rule.required:
                    self._refuse(f"{path}.{rule.name}", "is required")
                continue
            try:
                values[rule.name] = check_value(rule, sent)
            except ValueRefusedError as error:
                self._refuse(f"{path}.{rule.name}", str(error))
        self._check_position(f"{path}.frame_index", values["frame_index"])
        return ArbitraryFrame(**values) if len(self._violations) == before else None

    def _check_position(self, path: str, frame_index: int | None) -> None:
        num_frames = self._values["num_frames"]
        if frame_index is not None and num_frames is not None and frame_index >= num_frames:
            self._refuse(path, f"must be below num_frames, which is {spell(num_frames)}")


def _is_absent(rule: FieldRule, sent: object) -> bool:
    return sent is None or (rule.kind is Kind.KEYFRAMES and isinstance(sent, list | tuple) and not sent)


_ORDER = {name: number for number, rule in enumerate(FIELDS) for name in (rule.name, *rule.aliases)}


def _field_order(violation: Violation) -> int:
    return _ORDER[violation.field.partition("[")[0]]
