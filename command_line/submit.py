"""`warmlane submit`: asks for a video, shows its way, brings it home."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from warmlane.admission.v1 import task_pb2
from warmlane.generation.v1 import generation_pb2

from command_line.breaks import SaidBreaks, told_if_given_up
from command_line.client import AdmissionClient, last_state
from command_line.completion import complete_mode, complete_model
from command_line.documents import to_json
from command_line.failures import CommandError, ExitCode
from command_line.options import Address, AsJson, Output
from command_line.output import check_output, save_video
from command_line.program import program
from command_line.progress import TaskProgress
from command_line.session import with_admission
from command_line.submission import Picture, attach_pictures, chosen_mode, pictures


# One parameter per option: typer makes the command line from the signature.
def submit(  # noqa: PLR0913
    *,
    model: Annotated[str, typer.Option(help="anisora or phr00t.", autocompletion=complete_model)],
    prompt: Annotated[str, typer.Option(help="What to show, 1 to 2000 characters.")],
    mode: Annotated[
        str | None,
        typer.Option(help="t2v, i2v, first_last_frame or arbitrary_frame. Default: what the images mean.", autocompletion=complete_mode),
    ] = None,
    width: Annotated[int | None, typer.Option(help="Pixels, 256 to 2048; made as the multiple of 16 at or below.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels, 256 to 2048; made as the multiple of 16 at or below.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of the clip, 1 to 241; anisora makes 8k+1, phr00t 4k+1, at or below.")] = None,
    fps: Annotated[int | None, typer.Option(help="Frames a second.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same video; -1 or absent: a random one.")] = None,
    output_format: Annotated[str | None, typer.Option("--format", help="mp4 or webm.")] = None,
    steps: Annotated[int | None, typer.Option(help="Fixed by the model: leave it out.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="0 to 20.")] = None,
    motion_score: Annotated[float | None, typer.Option(help="0 to 5, anisora.")] = None,
    lighting_variant: Annotated[str | None, typer.Option(help="high_noise or low_noise, phr00t.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid; used where the guidance is over 1.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="A picture. i2v: one; first_last_frame: two; arbitrary_frame: PATH@INDEX[:STRENGTH], repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, with a progress bar.")] = False,
    output: Output = None,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Ask for a video; prints the task's id as soon as it is accepted, or waits for the video."""
    given = {
        "model": model,
        "prompt": prompt,
        "mode": chosen_mode(mode, image or ()),
        "width": width,
        "height": height,
        "num_frames": frames,
        "fps": fps,
        "seed": seed,
        "output_format": output_format,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "motion_score": motion_score,
        "lighting_variant": lighting_variant,
        "negative_prompt": negative_prompt,
    }
    request = _request(_with_format_of(output, given))
    found = pictures(request.mode if request.HasField("mode") else None, image or ())
    if output is not None:
        check_output(output)
    _Submission(request, found, wait=wait or output is not None, output=output, as_json=as_json, address=address).run()


def watch_to_end(address: str | None, task_id: str, *, output: Path | None, as_json: bool) -> None:
    """Follows a task that was accepted before; with `output` also brings its video home."""
    progress = Console(stderr=True)

    async def work(client: AdmissionClient) -> task_pb2.Task:
        # An unknown task, or an admission that is away, is told at once; breaks that come later are waited out.
        await client.task(task_id)
        with TaskProgress(progress, visible=not as_json) as shown:
            following = last_state(client, task_id, _printed_change if as_json else shown.show)
            task = await told_if_given_up(following, _resume(task_id, output, address))
        if output is not None and task.state == task_pb2.TASK_STATE_DONE:
            await save_video(client, task, output)
        return task

    task = with_admission(address, work, interrupted=lambda: _resume(task_id, output, address), listener=SaidBreaks(progress))
    _conclude(task, output=output, quiet=as_json)


class _Submission:
    """One run of the command."""

    def __init__(
        self,
        request: generation_pb2.GenerationRequest,
        found: list[Picture],
        *,
        wait: bool,
        output: Path | None,
        as_json: bool,
        address: str | None,
    ) -> None:
        self._request = request
        self._pictures = found
        self._wait = wait
        self._output = output
        self._as_json = as_json
        self._address = address
        self._task_id = ""
        self._progress = Console(stderr=True)

    def run(self) -> None:
        task = with_admission(self._address, self._work, interrupted=self._interrupted, listener=SaidBreaks(self._progress))
        if self._as_json:
            typer.echo(to_json(task))
        if self._wait:
            _conclude(task, output=self._output, quiet=self._as_json)
        elif not self._as_json:
            typer.echo(task.task_id)
            typer.echo(f"accepted; watch it with: {_watch_command(task.task_id, None, self._address)}", err=True)

    async def _work(self, client: AdmissionClient) -> task_pb2.Task:
        with TaskProgress(self._progress) as shown:
            task = await client.submit(await attach_pictures(self._request, self._pictures, client))
            self._task_id = task.task_id
            _tell_difference(self._request, task.request)
            if not self._wait:
                return task
            shown.show(task)
            following = last_state(client, task.task_id, shown.show)
            task = await told_if_given_up(following, _resume(task.task_id, self._output, self._address))
        if self._output is not None and task.state == task_pb2.TASK_STATE_DONE:
            await save_video(client, task, self._output)
        return task

    def _interrupted(self) -> str:
        if self._task_id:
            return _resume(self._task_id, self._output, self._address)
        return "interrupted before the task was accepted; nothing is kept of it."


def _with_format_of(output: Path | None, given: dict[str, str | int | float | None]) -> dict[str, str | int | float | None]:
    """Without --format the name of the file says it."""
    if given["output_format"] is None and output is not None and output.suffix.lower() == ".webm":
        return {**given, "output_format": "webm"}
    return given


def _tell_difference(request: generation_pb2.GenerationRequest, used: generation_pb2.GenerationRequest) -> None:
    """Says what the model makes instead, where it cannot make what was asked."""
    sizes = (
        (request.width, used.width, "pixels wide"),
        (request.height, used.height, "pixels high"),
        (request.num_frames, used.num_frames, "frames"),
    )
    for asked, made, unit in sizes:
        # 0 is what an unset field reads as, and no rule admits it.
        if asked not in (0, made):
            typer.echo(f"note: {used.model} makes {made} {unit}, the nearest it can below {asked}", err=True)


def _request(given: dict[str, str | int | float | None]) -> generation_pb2.GenerationRequest:
    request = generation_pb2.GenerationRequest()
    for field, value in given.items():
        if value is None:
            continue
        try:
            setattr(request, field, value)
        except (ValueError, TypeError) as error:
            msg = f"{field}: {value} cannot be sent: {error}."
            raise CommandError(msg) from error
    return request


def _printed_change(task: task_pb2.Task) -> None:
    typer.echo(to_json(task, indent=None))


def _conclude(task: task_pb2.Task, *, output: Path | None, quiet: bool) -> None:
    """Says how the task ended; raises CommandError when that was without a video."""
    if task.state != task_pb2.TASK_STATE_DONE:
        what = "was cancelled" if task.state == task_pb2.TASK_STATE_CANCELLED else "failed"
        msg = f"task {task.task_id} {what}: {task.failure.message or task.failure.code or 'no reason was given'}"
        raise CommandError(msg, exit_code=ExitCode.FAILED)
    if quiet:
        return
    made = task.result
    told = f"{made.width}x{made.height}, {made.num_frames} frames at {made.fps}/s, {made.size_bytes} bytes, seed {task.request.seed}"
    typer.echo(f"{task.task_id} done: {told}")
    if output is not None:
        typer.echo(f"written to {output}")


def _resume(task_id: str, output: Path | None, address: str | None) -> str:
    return f"the task goes on without you; watch it again with: {_watch_command(task_id, output, address)}"


def _watch_command(task_id: str, output: Path | None, address: str | None) -> str:
    words = [*program(), "watch", task_id]
    words += ["--output", str(output)] if output is not None else []
    words += ["--address", address] if address is not None else []
    return shlex.join(words)
