"""A complete gRPC client: uploads a picture, asks AniSora to animate it, watches the task, and saves the video.

    python examples/grpc_client.py picture.png clip.mp4 --prompt "the boat drifts away" --address 127.0.0.1:50051

It needs the generated code of this repository (installed with it), `grpcio` and `grpcio-status`, nothing else. Address, TLS files and token
come from the environment, by the same names as for `warmlane` (docs/howto/across-machines.md): WARMLANE_ADMISSION_ADDRESS,
WARMLANE_CLIENT_TOKEN (or WARMLANE_OPERATOR_TOKEN), WARMLANE_TLS_CA_FILE, WARMLANE_TLS_CLIENT_CERT_FILE and _KEY_FILE,
WARMLANE_TLS_SERVER_NAME.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast
from uuid import uuid4

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.generation.v1.generation_pb2 import GenerationRequest, InputImage

CHUNK_BYTES = 256 * 1024
TERMINAL = (task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED)


class Admission(NamedTuple):
    """The service, and the metadata of every call: the token, if there is one."""

    service: AdmissionServiceStub
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


def upload(to: Admission, picture: Path) -> InputImage:
    """Brings the picture in; the reference that comes back is used in requests."""

    def chunks() -> Iterator[admission.UploadInputRequest]:
        with picture.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield admission.UploadInputRequest(chunk=chunk)

    return to.service.UploadInput(chunks(), timeout=60, metadata=to.metadata).image


def submit(to: Admission, prompt: str, image: InputImage, num_frames: int) -> task_pb2.Task:
    """Asks for a clip. When it returns, the task is on disk and reaches an end whatever process dies."""
    request = GenerationRequest(
        model="anisora", mode="i2v", prompt=prompt, width=512, height=512, num_frames=num_frames, seed=7, reference_image=image
    )
    # Where no dedicated lane is ready, admission waits up to 30 s for a place in the shared pool before it answers. With a request_id the
    # call may be repeated after a break: it gives the same task, whether or not the first call arrived.
    call = admission.SubmitTaskRequest(request=request, request_id=uuid4().hex)
    try:
        return to.service.SubmitTask(call, timeout=40, metadata=to.metadata).task
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return to.service.SubmitTask(call, timeout=40, metadata=to.metadata, wait_for_ready=True).task


def watch(to: Admission, task_id: str) -> task_pb2.Task:
    """Tells every change until the task ends. After a break the stream may be opened again: it begins with the present state.

    `answer.events` is what was recorded; `after_sequence` of the next stream, set to the last `last_sequence`, leaves out what was seen.
    """
    task = task_pb2.Task()
    for answer in to.service.WatchTask(admission.WatchTaskRequest(task_id=task_id), timeout=3600, metadata=to.metadata):
        task = answer.task
        tell(f"{task.progress:3d} % {task_pb2.Stage.Name(task.stage).removeprefix('STAGE_').lower()} {task.stage_detail}")
        if task.state in TERMINAL:
            break
    return task


def save(to: Admission, task_id: str, path: Path) -> None:
    """Reads the video. `offset` lets a broken read go on where it stopped."""
    request = admission.ReadResultRequest(task_id=task_id, file=admission.RESULT_FILE_VIDEO, offset=0)
    with path.open("wb") as file:
        for answer in to.service.ReadResult(request, timeout=300, metadata=to.metadata):
            file.write(answer.chunk)


def explain(error: grpc.RpcError) -> str:
    """Every error of admission carries ErrorInfo: its reason is the code to decide by; BadRequest lists what is wrong with which field."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    if status is None:
        return f"admission does not answer: {error.code().name}"
    parts = [status.message]
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            parts.insert(0, info.reason)
        elif detail.Unpack(bad):
            parts += [f"{one.field}: {one.description}" for one in bad.field_violations]
    return "; ".join(parts)


def tell(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Exit codes: 0 the video is there, 1 it is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("picture", type=Path, help="PNG, JPEG or WebP, at most 12 MiB")
    parser.add_argument("output", type=Path, help="the video to write")
    parser.add_argument("--prompt", default="the camera moves slowly")
    parser.add_argument("--frames", type=int, default=17, help="how many: 1, 9, 17, and so on")
    address = os.environ.get("WARMLANE_ADMISSION_ADDRESS") or "127.0.0.1:50051"
    parser.add_argument("--address", default=address, help="host:port of admission (default: %(default)s)")
    arguments = parser.parse_args()
    if not arguments.picture.is_file():
        parser.error(f"{arguments.picture}: no such file")
    token = os.environ.get("WARMLANE_CLIENT_TOKEN") or os.environ.get("WARMLANE_OPERATOR_TOKEN", "")
    try:
        channel, metadata = connect(arguments.address, token)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with channel:
        to = Admission(AdmissionServiceStub(channel), metadata)
        try:
            accepted = submit(to, arguments.prompt, upload(to, arguments.picture), arguments.frames)
            tell(f"accepted as {accepted.task_id}")
            task = watch(to, accepted.task_id)
            if task.state != task_pb2.TASK_STATE_DONE:
                tell(f"no video: {task.failure.code}: {task.failure.message}")
                return 1
            save(to, task.task_id, arguments.output)
        except grpc.RpcError as error:
            tell(explain(error))
            return 1
    tell(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
