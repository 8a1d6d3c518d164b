"""Laws of the rule set that hold for every request."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from runtime.rules.catalogue import FIELDS, MODELS, MODES, FieldRule, Kind
from runtime.rules.check import check_request
from runtime.rules.effective import effective, latent_tokens
from runtime.rules.parameters import from_parameters, to_parameters
from runtime.rules.request import GenerationRequest, InvalidRequestError
from runtime.rules.schema import parameters_schema
from runtime.wire import message_to_raw, request_to_message
from tests.unit.rules.json_schema import accepts

_SEEDS = st.integers(0, 2_147_483_647)
_IMAGES = st.sampled_from("0123456789abcdef").map(lambda digit: {"key": "inputs/" + digit * 64})


def _values(rule: FieldRule) -> st.SearchStrategy[object]:
    """Good values of a field, as a client would send them."""
    if rule.options:
        return st.sampled_from(rule.options)
    if rule.kind is Kind.TEXT:
        longest = int(rule.maximum or 0)
        return st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=min(longest, 50)).map(
            lambda text: text if text.strip() or not rule.minimum else "x"
        )
    if rule.kind is Kind.INTEGER:
        return st.integers(int(rule.minimum or 0), int(rule.maximum or 0))
    return st.floats(float(rule.minimum or 0), float(rule.maximum or 0))


@st.composite
def _bodies(draw: st.DrawFn) -> dict[str, object]:
    """Valid bodies of any model and mode, with any part of the optional fields."""
    model = MODELS[draw(st.sampled_from(sorted(MODELS)))]
    mode = draw(st.sampled_from(model.modes))
    optional = {
        rule.name: _values(rule)
        for rule in FIELDS
        if rule.name not in ("model", "mode", "type", "prompt", "steps", "cfg_scale")
        and rule.name not in model.stand_ins.values()
        and rule.kind not in (Kind.IMAGE, Kind.KEYFRAMES)
    }
    prompt = _values(next(rule for rule in FIELDS if rule.name == "prompt"))
    raw: dict[str, object] = draw(st.fixed_dictionaries({"prompt": prompt}, optional=optional))
    raw |= {"model": model.id, "mode": mode}
    for name in MODES[mode].images:
        raw[name] = draw(_keyframes(raw)) if name == "arbitrary_frames" else draw(_IMAGES)
    return raw


def _keyframes(raw: dict[str, object]) -> st.SearchStrategy[list[dict[str, object]]]:
    num_frames = raw.get("num_frames", 81)
    assert isinstance(num_frames, int)
    entries = st.fixed_dictionaries(
        {"frame_index": st.integers(0, min(160, num_frames - 1)), "image": _IMAGES}, optional={"strength": st.floats(0.1, 1)}
    )
    return st.lists(entries, min_size=1, max_size=21, unique_by=lambda entry: str(entry["frame_index"]))


_REQUESTS = _bodies().map(check_request)


@given(_REQUESTS)
def test_parameters_give_the_request_back_when_they_went_through_json(request: GenerationRequest) -> None:
    assert from_parameters(json.loads(json.dumps(to_parameters(request)))) == request


@given(_REQUESTS)
def test_the_message_gives_the_request_back_when_it_went_over_the_wire(request: GenerationRequest) -> None:
    message = request_to_message(request)
    received = type(message).FromString(message.SerializeToString())
    assert check_request(message_to_raw(received)) == request


@given(_REQUESTS, _SEEDS, _SEEDS)
def test_an_effective_request_stays_as_it_is_when_it_is_made_effective_again(request: GenerationRequest, seed: int, other: int) -> None:
    once = effective(request, seed=seed)
    assert effective(once, seed=other) == once


@given(_REQUESTS, _SEEDS)
def test_an_effective_request_is_a_valid_request_and_never_more_than_was_asked(request: GenerationRequest, seed: int) -> None:
    used = effective(request, seed=seed)
    assert from_parameters(to_parameters(used)) == used
    assert request.width - 16 < used.width <= request.width
    assert request.height - 16 < used.height <= request.height
    assert request.num_frames - 8 < used.num_frames <= request.num_frames
    assert all(frame.frame_index % 8 == 0 and frame.frame_index < used.num_frames for frame in used.arbitrary_frames)
    assert used.seed >= 0
    assert latent_tokens(used) == ((used.num_frames - 1) // 4 + 1) * (used.height // 16) * (used.width // 16)


# Values of every JSON type, dense around the limits. Null is left out: the check takes it for absent. Text without surrogates, since a
# schema cannot speak of them; integers that a float can hold.
_ANY_JSON = st.one_of(
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 300),
    st.sampled_from([255, 256, 2048, 2049, 2**31 - 1, 2**31, 0.1, 0.5, 1.0, 1.5, 4, 8, 8.0, 20, 20.5]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", " ", "a\n", "\x00", "x" * 1000, "x" * 1001, "x" * 2000, "x" * 2001]),
    st.sampled_from([option for rule in FIELDS for option in rule.options] + sorted(MODES)),
    _IMAGES,
    st.just({"key": "inputs/x"}),
    st.lists(st.one_of(st.integers(), _IMAGES), max_size=3),
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"frame_index": st.integers(-1, 161), "image": _IMAGES, "strength": st.sampled_from([0, 0.1, 1, 1.1, "1"])}
        ),
        max_size=1,
    ),
)
_NAMES = sorted(name for rule in FIELDS for name in (rule.name, *rule.aliases))


def _check_accepts(raw: dict[str, object]) -> bool:
    try:
        check_request(raw)
    except InvalidRequestError:
        return False
    return True


@given(st.sampled_from(sorted(MODELS)), st.sampled_from(_NAMES), _ANY_JSON)
def test_the_schema_and_the_check_agree_when_one_field_has_any_value(model: str, name: str, value: object) -> None:
    # 241 frames leave room for every keyframe position, so that no two fields speak about each other.
    raw: dict[str, object] = {"prompt": "x", "num_frames": 241, "model": model, name: value}
    if name == "model" and isinstance(value, str) and value in MODELS:
        model = value
    assert accepts(parameters_schema(model), raw) is _check_accepts(raw)


@given(st.dictionaries(st.sampled_from([*_NAMES, "unknown"]), st.one_of(st.none(), _ANY_JSON)))
def test_the_check_answers_with_a_request_or_with_violations_when_anything_is_sent(raw: dict[str, object]) -> None:
    try:
        request = check_request(raw)
    except InvalidRequestError as error:
        fields = {violation.field.partition("[")[0] for violation in error.violations}
    else:
        fields = set()
        assert from_parameters(to_parameters(request)) == request
    assert fields <= set(_NAMES)
