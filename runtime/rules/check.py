"""Turns what a client sent into a complete request, or says everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.rules.catalogue import FIELDS, KEYFRAME_FIELDS, MODELS, MODES, FieldRule, FixedParameter, Kind, ModelRules
from runtime.rules.request import ArbitraryFrame, GenerationRequest, InvalidRequestError, Violation
from runtime.rules.values import Check, ValueRefusedError, check_of, check_value, spell

# Fields that a request is checked by and does not carry.
_CHECKED_ONLY = frozenset({"type"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What the rule set says of one field for one model (None: an unknown one), looked up once instead of at every request.

    Attributes:
        names: the field's name and its aliases.
        stand_in: field that is read when none of the names was sent.
        default: of an absent field; for `mode` the images decide.
        options: choices of a rule that lists none itself.
        check: of a value, with rule and options.
    """

    rule: FieldRule
    name: str
    names: tuple[str, ...]
    has_one_name: bool
    stand_in: str | None
    fixed: FixedParameter | None
    default: str | int | float | None
    options: tuple[str, ...]
    check: Check

    @property
    def is_plain(self) -> bool:
        """When none of its names was sent, the field has its default, and nothing else is to be looked at."""
        return self.stand_in is None and not self.rule.required and self.rule.name != "mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """The plans of one model, sorted for a run over what was sent.

    Attributes:
        defaults: of the plain fields, by name.
        plain: plans of the plain fields, by each of their names.
        special: the other plans, keyframes excepted; they come first, because a field may be read in place of another.
    """

    defaults: Mapping[str, object]
    plain: Mapping[str, _Plan]
    special: tuple[_Plan, ...]


def _sheet(model: ModelRules | None) -> _Sheet:
    plans = [plan for plan in _plans(model) if plan.rule.kind is not Kind.KEYFRAMES]
    plain = [plan for plan in plans if plan.is_plain]
    return _Sheet(
        defaults={plan.rule.name: plan.default for plan in plain},
        plain={name: plan for plan in plain for name in plan.names},
        special=tuple(plan for plan in plans if not plan.is_plain),
    )


def _plans(model: ModelRules | None) -> list[_Plan]:
    plans = []
    for rule in FIELDS:
        fixed = model.fixed_parameters.get(rule.name) if model is not None else None
        stand_in = model.stand_ins.get(rule.name) if model is not None else None
        plans.append(
            _Plan(
                rule=rule,
                name=rule.name,
                names=(rule.name, *rule.aliases),
                has_one_name=not rule.aliases,
                stand_in=stand_in,
                fixed=fixed,
                default=rule.default if fixed is None else fixed.value,
                options=model.modes if model is not None else tuple(MODES),
                check=check_of(rule.kind),
            )
        )
    return plans


_SHEETS: Mapping[str, _Sheet] = {model.id: _sheet(model) for model in MODELS.values()}
_SHEET_OF_UNKNOWN = _sheet(None)
_KEYFRAME_RULES = tuple(rule for rule in FIELDS if rule.kind is Kind.KEYFRAMES)
_UNUSED: Mapping[str, tuple[FieldRule, ...]] = {
    model_id: tuple(rule for rule in FIELDS if not rule.is_used_by(model_id)) for model_id in MODELS
}
_RULES: Mapping[str, FieldRule] = {rule.name: rule for rule in FIELDS}
_IMAGE_RULES = tuple(rule for rule in FIELDS if rule.kind in (Kind.IMAGE, Kind.KEYFRAMES))


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
        sheet = _SHEET_OF_UNKNOWN if self._model is None else _SHEETS[self._model.id]
        # Most fields of most requests are not sent.
        self._values = dict(sheet.defaults)
        sent = {plan.name: plan for name in self._raw if (plan := sheet.plain.get(name)) is not None}
        for plan in sheet.special:
            if plan.name not in self._stood_in:
                self._values[plan.name] = self._field(plan)
        for name, plan in sent.items():
            if name not in self._stood_in:
                self._values[name] = self._field(plan)
        for rule in _KEYFRAME_RULES:
            self._values[rule.name] = self._keyframes(rule)
        if self._model is not None:
            self._apply_model(self._model)
        if self._violations or self._model is None:
            raise InvalidRequestError(tuple(sorted(self._violations, key=_field_order)))
        for name in _CHECKED_ONLY:
            del self._values[name]
        return GenerationRequest(**self._values)

    def _refuse(self, field: str, message: str) -> None:
        self._violations.append(Violation(field=field, message=message))

    def _field(self, plan: _Plan) -> object:
        """The field's value under the first of its names that was sent, all of which are checked; its default when none was."""
        if plan.has_one_name and (sent := self._raw.get(plan.name)) is not None:
            return self._value(plan, plan.name, sent)
        values = [self._value(plan, name, sent) for name in plan.names if (sent := self._raw.get(name)) is not None]
        if values:
            return values[0]
        if plan.stand_in is not None and (sent := self._raw.get(plan.stand_in)) is not None:
            self._stood_in.add(plan.stand_in)
            return self._value(plan, plan.stand_in, sent)
        if plan.rule.required:
            self._refuse(plan.rule.name, "is required")
        if plan.rule.name == "mode" and self._model is not None:
            return self._meant_mode(self._model)
        return plan.default

    def _value(self, plan: _Plan, name: str, sent: object) -> object:
        try:
            value = plan.check(plan.rule, sent, plan.options)
        except ValueRefusedError as error:
            self._refuse(name, f"{error}{self._fixed_hint(plan)}")
            return None
        if plan.fixed is not None and value != plan.fixed.value:
            self._refuse(name, f"must be {plan.fixed.value}{self._fixed_hint(plan)}")
        return value

    def _fixed_hint(self, plan: _Plan) -> str:
        if self._model is None or plan.fixed is None:
            return ""
        name, value = plan.rule.name, plan.fixed.value
        return f": {self._model.id} renders with {name} {value} only; leave the field out or send that value"

    def _meant_mode(self, model: ModelRules) -> str:
        """Without a mode the images say which one is meant: a picture that was sent is never dropped in silence."""
        for mode in model.modes_by_images():
            if any(self._raw.get(name) not in (None, [], ()) for name in MODES[mode].images):
                return mode
        return model.default_mode

    def _apply_model(self, model: ModelRules) -> None:
        """Holds what the model does not use at its default, leaves out the images that the mode does not use, requires those it does."""
        for rule in _UNUSED[model.id]:
            self._values[rule.name] = rule.default
        for name in self._stood_in:
            self._values[name] = _RULES[name].default
        mode = self._values["mode"]
        if mode is None:
            return
        images = MODES[mode].images
        for rule in _IMAGE_RULES:
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
