"""A light stack with TLS, client certificates and tokens between its processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import grpc
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from runtime.roles import Role
from tests.harness.credentials import TOKENS, Authority, Issued
from tests.harness.light_stack import LightStack


def secure_environment(ca: Authority, server: Issued, caller: Issued) -> dict[str, str]:
    """One file of settings for all processes, as on one machine."""
    return {
        "WARMLANE_TLS_CERT_FILE": str(server.cert),
        "WARMLANE_TLS_KEY_FILE": str(server.key),
        "WARMLANE_TLS_CLIENT_CA_FILE": str(ca.cert),
        "WARMLANE_TLS_CA_FILE": str(ca.cert),
        "WARMLANE_TLS_CLIENT_CERT_FILE": str(caller.cert),
        "WARMLANE_TLS_CLIENT_KEY_FILE": str(caller.key),
        **{f"WARMLANE_{role.upper()}_TOKEN": token for role, token in TOKENS.items()},
        "GRPC_VERBOSITY": "ERROR",
    }


class SecureStack(LightStack):
    """Is asked as an operator, over TLS."""

    def __init__(self, folder: Path, ca: Authority, own: Issued, environment: Mapping[str, str], *, processes: Iterable[str]) -> None:
        """As a light stack of these processes."""
        super().__init__(folder, processes=processes, environment=environment)
        self._trusted = grpc.ssl_channel_credentials(ca.cert.read_bytes(), own.key.read_bytes(), own.cert.read_bytes())

    def snapshot(self, timeout_s: float = 2.0) -> operators.GetSnapshotResponse:
        """What admission sees."""
        shown = (("authorization", f"Bearer {TOKENS[Role.OPERATOR]}"),)
        with grpc.secure_channel(self.grpc_address, self._trusted) as channel:
            return OperatorServiceStub(channel).GetSnapshot(operators.GetSnapshotRequest(), timeout=timeout_s, metadata=shown)
