"""What is taken from a `traceparent`, and what is made of it."""

from __future__ import annotations

import pytest

from runtime.traces.context import (
    TraceContext,
    attempt_span_id,
    derived_span_id,
    new_roots,
    new_span_id,
    of_stored,
    parse,
    stored,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (PARENT, True),
        (f" {PARENT}\t", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        # Flags that are not known are not kept.
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        # Of a version to come what is known is read.
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-will-come", True),
    ],
)
def test_a_context_is_read_when_it_is_as_the_standard_says(text: str, is_sampled: bool) -> None:
    assert parse(text) == TraceContext(trace_id=TRACE, span_id=SPAN, is_sampled=is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}x-{SPAN}-01",
        f"00_{TRACE}_{SPAN}_01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01what",
        f"{PARENT}\n",
        f"{PARENT},{PARENT}",
        # Digits that are digits to Python only.
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
    ],
)
def test_there_is_no_context_when_the_text_is_not_one(text: str) -> None:
    assert parse(text) is None


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("vendor=opaque", "vendor=opaque"),
        (" a=1 ,\tb@c=2;x:y ,, ", "a=1,b@c=2;x:y"),
        ("", ""),
        ("no equals sign", ""),
        ("UPPER=1", ""),
        ("a=", ""),
        ("a=ü", ""),
        ("a=1\nb=2", ""),
        ("a=1=2", ""),
        ("a=" + "x" * 511, ""),
        (",".join(f"k{number}=1" for number in range(33)), ""),
    ],
)
def test_the_state_is_kept_only_when_it_is_as_the_standard_says(state: str, kept: str) -> None:
    context = parse(PARENT, state)
    assert context is not None
    assert context.state == kept


@pytest.mark.parametrize("state", ["", "vendor=opaque,other=a b"])
@pytest.mark.parametrize("is_sampled", [True, False])
def test_a_context_comes_back_when_it_was_stored(state: str, is_sampled: bool) -> None:
    context = TraceContext(trace_id=TRACE, span_id=SPAN, is_sampled=is_sampled, state=state)
    assert of_stored(stored(context)) == context
    assert parse(context.traceparent, state) == context


def test_nothing_comes_back_when_nothing_or_nonsense_was_stored() -> None:
    assert stored(None) == ""
    assert of_stored("") is None
    assert of_stored("nonsense") is None


def test_ids_are_of_their_length_and_differ_when_many_are_drawn() -> None:
    drawn = [(root.trace_id, root.span_id) for root in new_roots(1000)]
    traces, spans = {trace_id for trace_id, _ in drawn}, {span_id for _, span_id in drawn} | {new_span_id() for _ in range(1000)}
    assert (len(traces), len(spans)) == (1000, 2000)
    assert {len(one) for one in traces} == {32}
    assert {len(one) for one in spans} == {16}


def test_the_id_of_an_attempt_stays_when_other_versions_work_it_out() -> None:
    # The proto says how; lanes of another release must come to the same.
    assert attempt_span_id(TRACE, "1" * 32, 2) == "26b3f8fd770de6e8"
    assert attempt_span_id(TRACE, "1" * 32, 2) == derived_span_id(TRACE, "1" * 32, "2")


def test_ids_differ_when_one_part_does() -> None:
    parts = [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", 1, "render")]
    assert len({derived_span_id(TRACE, *one) for one in parts}) == len(parts)
    assert derived_span_id(TRACE, "a", 1) != derived_span_id(TRACE[::-1], "a", 1)
