"""docs/howto/grpcurl.md: every command of the page is run, and every method is on it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import FileDescriptor
from grpc_channelz.v1 import channelz_pb2
from warmlane.admission.v1 import access_service_pb2, admission_service_pb2, operator_service_pb2
from warmlane.lane.v1 import dispatch_service_pb2, inspection_service_pb2

from runtime.roles import ALLOWED, Role
from tests.harness.credentials import TOKENS, Authority
from tests.harness.fenced import Shell, Step, has, steps
from tests.harness.light_stack import ADMISSION, LightStack
from tests.harness.secure_stack import SecureStack, secure_environment

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "howto" / "grpcurl.md").read_text(encoding="utf-8")
STEPS = steps(PAGE)
LANE = "lane-anisora"
_BINARIES = os.pathsep.join([str(Path(sys.executable).parent), str(ROOT / "node_modules" / ".bin"), os.environ["PATH"]])
_BUF = shutil.which("buf", path=_BINARIES)
_FILES: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (
        admission_service_pb2,
        access_service_pb2,
        operator_service_pb2,
        dispatch_service_pb2,
        inspection_service_pb2,
        channelz_pb2,
    )
)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A person beside a stack of admission and one lane, and a second admission with TLS and tokens."""
    folder = tmp_path_factory.mktemp("shell")
    ca = Authority(folder)
    operator = ca.issue("operator", file="operator")
    for source, name in ((operator.cert, "operator.pem"), (operator.key, "operator.key")):
        shutil.copy(source, folder / name)
    secured = SecureStack(
        tmp_path_factory.mktemp("secure"), ca, operator, secure_environment(ca, ca.issue(), operator), processes=(ADMISSION,)
    )
    with LightStack(tmp_path_factory.mktemp("stack"), processes=(ADMISSION, LANE)) as stack, secured:
        port = next(json.loads(line)["port"] for line in stack.log(LANE).splitlines() if '"lane_started"' in line)
        yield Shell(
            folder,
            {
                "PATH": _BINARIES,
                "ADMISSION": stack.grpc_address,
                "LANE": f"127.0.0.1:{port}",
                "SECURE": secured.grpc_address,
                "TOKEN": TOKENS[Role.OPERATOR],
            },
        )


# In the order of the page: later ones use what earlier ones made.
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.heading.replace(" ", "-").lower())
def test_commands_of_the_page_give_the_answers_that_stand_below_them(shell: Shell, step: Step) -> None:
    if "buf curl" in step.commands and _BUF is None:
        pytest.skip("buf comes with npm, which is not there")
    shell.run(step)


def test_every_method_of_every_service_is_called_on_the_page() -> None:
    commands = "\n".join(step.commands for step in STEPS)
    served = {
        f"{service.full_name}/{method.name}" for file in _FILES for service in file.services_by_name.values() for method in service.methods
    }
    # The descriptors are those of all services.
    assert served == {f"{service}/{method}" for service, methods in ALLOWED.items() for method in methods}
    served |= {"grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"}
    assert [method for method in sorted(served) if method not in commands] == []


def test_every_command_that_calls_is_compared_with_an_answer() -> None:
    silent = [step.commands for step in STEPS if "grpcurl" in step.commands and step.document is None and not step.lines]
    assert silent == []


@pytest.mark.parametrize(
    ("wanted", "is_there"),
    [
        ({"a": {"b": 1}}, True),
        ({"a": "…"}, True),
        ({"list": [{"x": 2}]}, True),
        ({"a": {"b": 2}}, False),
        ({"missing": "…"}, False),
        ({"list": [{"x": 3}]}, False),
    ],
)
def test_answer_is_compared_by_the_fields_that_are_wanted(wanted: object, is_there: bool) -> None:
    assert has({"a": {"b": 1, "c": 2}, "list": [{"x": 1}, {"x": 2}]}, wanted) is is_there
