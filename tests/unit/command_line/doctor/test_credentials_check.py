"""Tokens, TLS files and the ends of certificates, with certificates of a CA made for the test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from command_line.doctor.certificates import ends_of
from command_line.doctor.credentials import check_certificates, check_tokens
from command_line.doctor.finding import Outcome
from command_line.doctor.machine_probes import certificates_end
from runtime.roles import Role
from tests.harness.credentials import TOKENS, Authority
from tests.unit.command_line.doctor.conftest import NOW, Look, outcomes

OK, WARNING, FAILED, SKIPPED = Outcome
TOKEN_VARIABLES = {f"WARMLANE_{role.upper()}_TOKEN": token for role, token in TOKENS.items()}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA."""
    return Authority(tmp_path_factory.mktemp("ca"))


def test_nothing_is_set_up_and_that_is_fine_on_one_machine(look: Look) -> None:
    found = look(check_tokens)["credentials"]
    assert (found.outcome, "loopback only" in found.found) == (OK, True)
    assert look(check_certificates)["certificates"].outcome is SKIPPED


def test_credentials_are_good_when_all_are_set(look: Look, authority: Authority) -> None:
    server = authority.issue()
    environment = {
        **TOKEN_VARIABLES,
        "WARMLANE_TLS_CERT_FILE": str(server.cert),
        "WARMLANE_TLS_KEY_FILE": str(server.key),
        "WARMLANE_TLS_CA_FILE": str(authority.cert),
    }
    found = look(check_tokens, environment=environment)["credentials"]
    assert (found.outcome, found.found) == (OK, "tokens of bridge, client, lane, operator; TLS is set")
    ends = look(check_certificates, environment=environment, certificates_end=certificates_end)
    assert set(ends) == {"certificates.tls_cert_file", "certificates.tls_ca_file"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"WARMLANE_LANE_TOKEN": "short"}, "WARMLANE_LANE_TOKEN"),
        ({"WARMLANE_LANE_TOKEN": TOKENS[Role.OPERATOR]}, "each role needs a token of its own"),
        ({"WARMLANE_TLS_CERT_FILE": "nowhere.pem"}, "WARMLANE_TLS_KEY_FILE"),
        ({"WARMLANE_TLS_CA_FILE": "nowhere.pem"}, "nowhere.pem"),
    ],
)
def test_variable_is_named_and_no_token_told_when_it_is_wrong(look: Look, change: dict[str, str], told: str) -> None:
    found = look(check_tokens, environment=TOKEN_VARIABLES | change)["credentials"]
    assert found.outcome is FAILED
    assert told in found.found
    assert not any(token in found.found for token in (*TOKENS.values(), "short"))


def test_missing_token_is_a_warning_because_not_every_machine_has_every_process(look: Look) -> None:
    found = look(check_tokens, environment={"WARMLANE_LANE_TOKEN": TOKENS[Role.LANE]})["credentials"]
    assert found.outcome is WARNING
    assert "WARMLANE_OPERATOR_TOKEN must be set too" in found.found


@pytest.mark.parametrize(("days", "outcome"), [(80, OK), (13, WARNING), (-1, FAILED)])
def test_certificate_is_judged_by_the_days_that_it_lasts(look: Look, days: int, outcome: Outcome) -> None:
    ends = [NOW.utc + timedelta(days=500), NOW.utc + timedelta(days=days)]
    found = look(check_certificates, environment={"WARMLANE_TLS_CERT_FILE": "a.pem"}, certificates_end=lambda path: ends)
    assert outcomes(found) == {outcome}


@pytest.mark.parametrize(("days", "outcome"), [((80, 400), OK), ((-1, 400), WARNING), ((-2, -1), FAILED)])
def test_ca_that_was_replaced_is_a_warning_only(look: Look, days: tuple[int, int], outcome: Outcome) -> None:
    ends = [NOW.utc + timedelta(days=one) for one in days]
    found = look(check_certificates, environment={"WARMLANE_TLS_CA_FILE": "ca.pem"}, certificates_end=lambda path: ends)
    assert outcomes(found) == {outcome}


def test_end_is_what_another_library_reads_when_a_certificate_is_looked_at(authority: Authority, tmp_path: Path) -> None:
    for issued in (authority.issue(file="good"), authority.issue(file="expired", is_expired=True)):
        pem = issued.cert.read_bytes()
        assert ends_of(pem) == [one.not_valid_after_utc for one in x509.load_pem_x509_certificates(pem)]
    assert ends_of(authority.cert.read_bytes())[0] > datetime.now(UTC)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_file_is_told_to_be_none_when_it_holds_no_certificate(look: Look, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pem"
    path.write_bytes(content)
    found = look(check_certificates, environment={"WARMLANE_TLS_CA_FILE": str(path)}, certificates_end=certificates_end)
    assert outcomes(found) == {FAILED}
    missing = look(check_certificates, environment={"WARMLANE_TLS_CA_FILE": "nowhere"}, certificates_end=certificates_end)
    assert "No such file" in missing["certificates.tls_ca_file"].found


def test_damaged_certificate_is_an_error_of_the_file_whatever_is_cut(authority: Authority) -> None:
    import ssl

    der = ssl.PEM_cert_to_DER_cert(authority.cert.read_text())
    for length in range(1, min(len(der), 200), 7):
        with pytest.raises(ValueError, match="certificate"):
            ends_of(ssl.DER_cert_to_PEM_cert(der[:length]).encode())
