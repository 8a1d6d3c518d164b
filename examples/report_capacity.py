"""Tells admission that no GPU can be had for a model, again and again while that lasts, and takes it back at the end.

    python examples/report_capacity.py anisora --reason "no A10G in the region" --address 127.0.0.1:50051

A program that starts lanes does the same when its provider denies the quota. Stop it with Ctrl-C. Each report holds for two minutes only,
so that a reporter that dies leaves nothing behind. Address, TLS files and token come from the environment, by the same names as for
`warmlane` (docs/howto/across-machines.md): WARMLANE_ADMISSION_ADDRESS, WARMLANE_OPERATOR_TOKEN, WARMLANE_TLS_CA_FILE,
WARMLANE_TLS_CLIENT_CERT_FILE and _KEY_FILE, WARMLANE_TLS_SERVER_NAME.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import grpc
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

VALID_S = 120
AGAIN_AFTER_S = VALID_S / 2


class Operator(NamedTuple):
    """The service, and the metadata of every call: the token, if there is one."""

    service: OperatorServiceStub
    metadata: tuple[tuple[str, str], ...]


def connect(address: str, token: str) -> tuple[grpc.Channel, tuple[tuple[str, str], ...]]:
    """A channel, and the metadata of every call: TLS files from the environment, by the names that `warmlane` reads, and the token.

    Raises:
        OSError: a file cannot be read.
        ValueError: the token would travel in the clear.
    """
    ca, cert, key = (
        Path(name).read_bytes() if (name := os.environ.get(f"WARMLANE_TLS_{file}_FILE")) else None
        for file in ("CA", "CLIENT_CERT", "CLIENT_KEY")
    )
    if ca is None and token and address.rpartition(":")[0] not in ("127.0.0.1", "localhost", "[::1]"):
        raise ValueError(f"WARMLANE_TLS_CA_FILE must be set: a token is sent to {address} over TLS only")
    # Of two tokens, separated by a comma, servers take both while one replaces the other; callers send the first.
    metadata = (("authorization", f"Bearer {token.partition(',')[0].strip()}"),) if token else ()
    if ca is None:
        return grpc.insecure_channel(address), metadata
    name = os.environ.get("WARMLANE_TLS_SERVER_NAME")
    options = [("grpc.ssl_target_name_override", name)] if name else []
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert), options), metadata


def report(to: Operator, model: str, *, denied: bool, reason: str = "") -> None:
    """Says it once. Durable when it returns."""
    request = operator.ReportCapacityRequest(
        model=model, capacity=operator.CAPACITY_DENIED if denied else operator.CAPACITY_RESTORED, reason=reason
    )
    if denied:
        request.valid_for.FromSeconds(VALID_S)
    queue = to.service.ReportCapacity(request, timeout=15, metadata=to.metadata).queue
    until = queue.quota_denied_until.ToJsonString() if queue.HasField("quota_denied_until") else "not denied"
    sys.stdout.write(f"{queue.model}: {until}, {queue.depth} waiting\n")
    sys.stdout.flush()


def main() -> int:
    """Exit codes: 0 taken back, 1 admission did not take it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="anisora or phr00t")
    parser.add_argument("--reason", default="", help="a sentence for operators")
    address = os.environ.get("WARMLANE_ADMISSION_ADDRESS") or "127.0.0.1:50051"
    parser.add_argument("--address", default=address, help="host:port of admission (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        channel, metadata = connect(arguments.address, os.environ.get("WARMLANE_OPERATOR_TOKEN", ""))
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with channel:
        to = Operator(OperatorServiceStub(channel), metadata)
        try:
            try:
                while True:
                    report(to, arguments.model, denied=True, reason=arguments.reason)
                    threading.Event().wait(AGAIN_AFTER_S)
            except KeyboardInterrupt:
                report(to, arguments.model, denied=False)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error.code().name}: {error.details()}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
