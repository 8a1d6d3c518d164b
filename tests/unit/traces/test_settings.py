"""What the settings of traces take, and that no problem says a secret."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from runtime.settings import problems
from runtime.traces.settings import TraceSettings

SECRET = "marked-secret"


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("", ""),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("https://collector.example.org/", "https://collector.example.org/v1/traces"),
        ("http://collector.example.org/otlp", "http://collector.example.org/otlp/v1/traces"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
    ],
)
def test_spans_go_to_the_path_of_the_protocol_when_an_endpoint_is_set(endpoint: str, url: str) -> None:
    assert TraceSettings(otlp_endpoint=endpoint).otlp_url() == url


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:4318",
        "grpc://127.0.0.1:4317",
        "http://",
        "http://host:port",
        "http://host:0",
        f"http://user:{SECRET}@host:4318",
        f"http://host:4318/?token={SECRET}",
        f"http://host:4318/#{SECRET}",
        "http://[::1",
    ],
)
def test_the_setting_is_refused_without_its_value_when_it_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TraceSettings(otlp_endpoint=endpoint)
    [problem] = problems(caught.value)
    assert problem.startswith("WARMLANE_OTLP_ENDPOINT: ")
    assert SECRET not in problem


def test_headers_are_read_when_they_are_written_as_opentelemetry_has_them() -> None:
    settings = TraceSettings.model_validate({"otlp_headers": "Authorization=Bearer%20a%2Cb, x-tenant=7 ,"})
    assert settings.otlp_header_map() == {"authorization": "Bearer a,b", "x-tenant": "7"}
    assert SECRET not in repr(TraceSettings.model_validate({"otlp_headers": f"authorization={SECRET}"}))


@pytest.mark.parametrize("headers", [SECRET, f"a b={SECRET}", f"a=%0A{SECRET}", f"a=%C3%BC{SECRET}", f"a=1,{SECRET}", f"=%20{SECRET}"])
def test_the_setting_is_refused_without_its_value_when_it_is_no_headers(headers: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TraceSettings.model_validate({"otlp_headers": headers})
    [problem] = problems(caught.value)
    assert problem.startswith("WARMLANE_OTLP_HEADERS: ")
    assert SECRET not in problem


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_the_setting_is_refused_when_it_is_no_share(ratio: float) -> None:
    with pytest.raises(ValidationError):
        TraceSettings(trace_sample_ratio=ratio)


def test_there_are_no_headers_when_none_are_set() -> None:
    assert TraceSettings().otlp_header_map() == {}
    assert TraceSettings.model_validate({"otlp_headers": ""}).otlp_header_map() == {}
