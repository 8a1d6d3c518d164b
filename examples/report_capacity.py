"""Tells admission that no GPU can be had for a model, again and again while that lasts, and takes it back at the end.

    python examples/report_capacity.py anisora --reason "no A10G in the region" --address 127.0.0.1:50051

A program that starts lanes does the same when its provider denies the quota. Stop it with Ctrl-C. Each report holds for two minutes only,
so that a reporter that dies leaves nothing behind.
"""

from __future__ import annotations

import argparse
import sys
import threading

import grpc
from warmlane.admission.v1 import operator_service_pb2 as operator
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

VALID_S = 120
AGAIN_AFTER_S = VALID_S / 2


def report(service: OperatorServiceStub, model: str, *, denied: bool, reason: str = "") -> None:
    """Says it once. Durable when it returns."""
    request = operator.ReportCapacityRequest(
        model=model, capacity=operator.CAPACITY_DENIED if denied else operator.CAPACITY_RESTORED, reason=reason
    )
    if denied:
        request.valid_for.FromSeconds(VALID_S)
    queue = service.ReportCapacity(request, timeout=15).queue
    until = queue.quota_denied_until.ToJsonString() if queue.HasField("quota_denied_until") else "not denied"
    sys.stdout.write(f"{queue.model}: {until}, {queue.depth} waiting\n")
    sys.stdout.flush()


def main() -> int:
    """Exit codes: 0 taken back, 1 admission did not take it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="anisora or phr00t")
    parser.add_argument("--reason", default="", help="a sentence for operators")
    parser.add_argument("--address", default="127.0.0.1:50051", help="host:port of admission")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address) as channel:
        service = OperatorServiceStub(channel)
        try:
            while True:
                report(service, arguments.model, denied=True, reason=arguments.reason)
                threading.Event().wait(AGAIN_AFTER_S)
        except KeyboardInterrupt:
            report(service, arguments.model, denied=False)
        except grpc.RpcError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
