"""Settings of TLS and tokens: wrong ones end every process at its start, in one line that says what to do and no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from admission.__main__ import main as admission_main
from admission.config import AdmissionSettings
from http_bridge.__main__ import main as bridge_main
from http_bridge.config import BridgeSettings
from lane_anisora.__main__ import main as lane_main
from lane_anisora.config import Settings as LaneSettings
from runtime.lane.child_process import child_environment
from runtime.roles import Role
from tests.harness.credentials import TOKENS, Authority

LANE, OPERATOR, BRIDGE = TOKENS[Role.LANE], TOKENS[Role.OPERATOR], TOKENS[Role.BRIDGE]
SHORT = "not-long-enough"

Say = Callable[[Callable[[], object], Mapping[str, str]], str]


@pytest.fixture(autouse=True)
def _restored_log() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a process that must not start; what it says, in one line."""

    def start(main: Callable[[], object], settings: Mapping[str, str]) -> str:
        for name, value in settings.items():
            monkeypatch.setenv(f"WARMLANE_{name.upper()}", value)
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        assert code in (1, 2)
        said = capsys.readouterr().err
        assert len(said.splitlines()) == 1, said
        assert "Traceback" not in said
        assert not any(value in said for name, value in settings.items() if name.endswith("_token"))
        return said

    return start


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the test."""
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("main", "settings", "said"),
    [
        (admission_main, {"operator_token": SHORT}, "WARMLANE_OPERATOR_TOKEN: a token has at least 32 characters"),
        (admission_main, {"lane_token": f"{LANE},{SHORT}"}, "WARMLANE_LANE_TOKEN: a token has at least 32 characters"),
        (admission_main, {"client_token": "x" * 32 + " " + "y" * 32}, "without blanks"),
        (admission_main, {"client_token": "ü" * 32}, "printable ASCII"),
        (admission_main, {"bridge_token": f"{'a' * 32},{'b' * 32},{'c' * 32}"}, "at most two tokens"),
        (admission_main, {"lane_token": LANE, "operator_token": LANE}, "each role needs a token of its own"),
        (admission_main, {"lane_token": f"{LANE},{OPERATOR}", "operator_token": OPERATOR}, "each role needs a token of its own"),
        (lane_main, {"lane_token": SHORT}, "lane: WARMLANE_LANE_TOKEN: a token has at least 32 characters"),
        (lane_main, {"lane_token": LANE, "admission_address": "192.0.2.1:50051"}, "WARMLANE_TLS_CA_FILE must be set"),
        (bridge_main, {"bridge_token": SHORT}, "http-bridge: WARMLANE_BRIDGE_TOKEN: a token has at least 32 characters"),
        (bridge_main, {"bridge_token": BRIDGE, "admission_address": "192.0.2.1:50051"}, "WARMLANE_TLS_CA_FILE must be set"),
        (admission_main, {"tls_cert_file": "/nowhere.pem"}, "TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE are set together"),
        (admission_main, {"tls_key_file": "/nowhere.key"}, "TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE are set together"),
        (admission_main, {"tls_client_ca_file": "/nowhere.pem"}, "WARMLANE_TLS_CLIENT_CA_FILE needs WARMLANE_TLS_CERT_FILE"),
        (lane_main, {"tls_client_cert_file": "/nowhere.pem"}, "are set together or not at all"),
        (bridge_main, {"tls_client_cert_file": "/a.pem", "tls_client_key_file": "/a.key"}, "needs WARMLANE_TLS_CA_FILE"),
        (bridge_main, {"tls_ca_file": "/nowhere.pem"}, "/nowhere.pem cannot be read: No such file or directory"),
        (lane_main, {"tls_ca_file": "/"}, "/ cannot be read: Is a directory"),
        # These ended with a traceback.
        (bridge_main, {"http_tls_cert_file": "/no.pem", "http_tls_key_file": "/no.key"}, "/no.pem cannot be read: No such file"),
        (bridge_main, {"trusted_proxies": "10.0.0.1"}, 'field "trusted_proxies" from source "EnvSettingsSource"; write it as JSON'),
        (bridge_main, {"image_upstream_url": "http://images:99999"}, "WARMLANE_IMAGE_UPSTREAM_URL: Port out of range 0-65535"),
    ],
)
def test_process_ends_with_one_line_when_a_setting_is_wrong(
    say: Say, main: Callable[[], object], settings: Mapping[str, str], said: str
) -> None:
    assert said in say(main, settings)


def test_process_ends_with_one_line_when_the_key_is_of_another_certificate(say: Say, ca: Authority) -> None:
    cert, other = ca.issue(), ca.issue(file="other")
    said = say(admission_main, {"tls_cert_file": str(cert.cert), "tls_key_file": str(other.key)})
    assert f"{other.key} is not the key of {cert.cert}" in said


def test_process_ends_with_one_line_when_the_key_is_encrypted(say: Say, ca: Authority) -> None:
    issued = ca.issue()
    key = load_pem_private_key(issued.key.read_bytes(), None)
    issued.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    said = say(lane_main, {"tls_cert_file": str(issued.cert), "tls_key_file": str(issued.key)})
    assert "must be a PEM certificate and its PEM key, not encrypted" in said


@pytest.mark.parametrize("content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_process_ends_with_one_line_when_a_file_holds_no_certificate(say: Say, ca: Authority, tmp_path: Path, content: str) -> None:
    (tmp_path / "wrong.pem").write_text(content)
    issued = ca.issue()
    said = say(admission_main, {"tls_cert_file": str(tmp_path / "wrong.pem"), "tls_key_file": str(issued.key)})
    assert "must be a PEM certificate" in said
    said = say(bridge_main, {"tls_cert_file": "", "tls_key_file": "", "tls_ca_file": str(tmp_path / "wrong.pem")})
    assert "must hold PEM certificates of the CAs to trust" in said


def test_process_says_what_is_missing_when_it_shall_listen_beyond_loopback(say: Say, ca: Authority, tmp_path: Path) -> None:
    issued = ca.issue()
    settings = {
        "admission_bind": "0.0.0.0:0",
        "metrics_bind": "",
        "database_url": f"sqlite:///{tmp_path / 'admission.db'}",
        "object_store_url": (tmp_path / "objects").as_uri(),
        "tls_cert_file": str(issued.cert),
        "tls_key_file": str(issued.key),
    }
    assert "what is missing: the tokens of those who may call" in say(admission_main, settings)


def test_empty_values_are_none_when_a_file_of_settings_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE", "TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE")
    for name in (*names, "HTTP_TLS_CERT_FILE", "HTTP_TLS_KEY_FILE", "TLS_SERVER_NAME", *(f"{role}_TOKEN".upper() for role in Role)):
        monkeypatch.setenv(f"WARMLANE_{name}", "")
    server = AdmissionSettings().server_credentials()
    assert (server.files, server.tokens) == (None, {})
    for caller in (BridgeSettings().admission_credentials(), LaneSettings().admission_credentials()):
        assert (caller.files, caller.token) == (None, "")
    assert BridgeSettings().http_tls_cert_file is None


def test_one_file_of_settings_serves_every_process_when_they_share_it(monkeypatch: pytest.MonkeyPatch, ca: Authority) -> None:
    issued, own = ca.issue(), ca.issue("client", file="client")
    files = {"cert": issued.cert, "key": issued.key, "client_ca": ca.cert, "ca": ca.cert, "client_cert": own.cert, "client_key": own.key}
    for name, path in files.items():
        monkeypatch.setenv(f"WARMLANE_TLS_{name.upper()}_FILE", str(path))
    for role, token in TOKENS.items():
        monkeypatch.setenv(f"WARMLANE_{role.upper()}_TOKEN", f"{token},old-{token}")
    admission, lane, bridge = AdmissionSettings(), LaneSettings(), BridgeSettings()
    assert admission.server_credentials().tokens == {role: (token, f"old-{token}") for role, token in TOKENS.items()}
    # A lane knows no token but its own and the operators'; each caller shows its own, the first of the two.
    assert set(lane.server_credentials().tokens) == {Role.LANE, Role.OPERATOR}
    assert (lane.admission_credentials().token, bridge.admission_credentials().token) == (LANE, BRIDGE)
    for one in (admission, lane, bridge, admission.server_credentials(), lane.admission_credentials()):
        assert not any(token in f"{one!r} {one!s}" for token in TOKENS.values())


def test_pipeline_s_process_gets_no_token_when_the_lane_has_some() -> None:
    environment = {f"WARMLANE_{role.upper()}_TOKEN": token for role, token in TOKENS.items()} | {"WARMLANE_DEVICE": "cpu"}
    child = child_environment(environment, device="cpu", torch_threads=1)
    assert "WARMLANE_DEVICE" in child
    assert not set(TOKENS.values()) & set(child.values())
