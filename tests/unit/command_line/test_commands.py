"""The commands as users run them: output, exit codes, files."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result
from warmlane.admission.v1 import operator_service_pb2, task_pb2
from warmlane.generation.v1 import generation_pb2

from command_line import session
from command_line.__main__ import app
from command_line.failures import CommandError, ExitCode
from runtime.errors import ErrorCode, ServiceError
from runtime.rules.request import Violation
from tests.unit.command_line.conftest import Served
from tests.unit.command_line.doubles import TASK_ID, VIDEO, made_task

Run = Callable[..., Result]


@pytest.fixture
def run(runner: CliRunner, threaded_admission: Served) -> Run:
    """Runs a command line against the double; what it refuses is raised as it would be before it becomes an exit code."""

    def invoke(*words: str) -> Result:
        result = runner.invoke(app, [*words, "--address", threaded_admission.address])
        if isinstance(result.exception, Exception):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def submit(run: Run) -> Run:
    """Runs `submit` with what it must have."""
    return lambda *words: run("submit", "--model", "anisora", "--prompt", "a boat", *words)


def test_task_id_is_printed_when_a_request_is_accepted(submit: Run) -> None:
    result = submit()
    assert (result.exit_code, result.stdout) == (0, f"{TASK_ID}\n")


def test_nothing_but_the_task_is_printed_when_the_request_was_sent_twice(submit: Run, threaded_admission: Served) -> None:
    # The log of a shared module went to standard output.
    threaded_admission.script.breaks_submission = True
    result = submit()
    assert result.stdout == f"{TASK_ID}\n"
    assert "sent again under its key" in result.stderr


def test_only_what_was_said_is_sent_when_options_are_left_out(submit: Run, threaded_admission: Served) -> None:
    submit("--frames", "17", "--seed", "3", "--format", "webm", "--motion-score", "2.5")
    expected = generation_pb2.GenerationRequest(
        model="anisora", prompt="a boat", num_frames=17, seed=3, output_format="webm", motion_score=2.5
    )
    assert threaded_admission.script.submitted == [expected]


def test_video_is_written_when_the_task_is_done(submit: Run, threaded_admission: Served, tmp_path: Path) -> None:
    threaded_admission.script.watched = [made_task(task_pb2.TASK_STATE_LEASED, progress=50), made_task(task_pb2.TASK_STATE_DONE)]
    target = tmp_path / "first.mp4"
    result = submit("--wait", "--output", str(target))
    assert result.exit_code == 0
    assert target.read_bytes() == VIDEO
    assert [path.name for path in tmp_path.iterdir()] == ["first.mp4"]
    assert "512x512, 17 frames at 16/s" in result.stdout


def test_old_file_stays_when_the_video_comes_damaged(submit: Run, threaded_admission: Served, tmp_path: Path) -> None:
    threaded_admission.script.watched = [made_task(task_pb2.TASK_STATE_DONE)]
    threaded_admission.script.video = VIDEO[:-1] + b"?"
    target = tmp_path / "first.mp4"
    target.write_bytes(b"old")
    with pytest.raises(CommandError, match="damaged"):
        submit("--output", str(target))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("first.mp4", b"old")]


def test_nothing_is_submitted_when_the_output_cannot_be_written(submit: Run, threaded_admission: Served, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="does not exist"):
        submit("--output", str(tmp_path / "missing" / "first.mp4"))
    assert threaded_admission.script.submitted == []


@pytest.mark.parametrize(("state", "told"), [(task_pb2.TASK_STATE_FAILED, "failed"), (task_pb2.TASK_STATE_CANCELLED, "was cancelled")])
def test_exit_code_is_1_when_the_task_ends_without_a_video(
    submit: Run, threaded_admission: Served, state: task_pb2.TaskState.ValueType, told: str
) -> None:
    failure = generation_pb2.Failure(code="render_failed", message="The pipeline raised.")
    threaded_admission.script.watched = [made_task(state, failure=failure)]
    with pytest.raises(CommandError, match=f"{told}: The pipeline raised") as caught:
        submit("--wait")
    assert caught.value.exit_code == ExitCode.FAILED


def test_exit_code_is_2_when_a_field_is_wrong(submit: Run, threaded_admission: Served) -> None:
    violations = (Violation(field="num_frames", message="must be at most 241"), Violation(field="width", message="must be at least 256"))
    threaded_admission.script.refusal = ServiceError(code=ErrorCode.VALIDATION_ERROR, message="wrong", violations=violations)
    with pytest.raises(CommandError) as caught:
        submit("--frames", "999")
    assert caught.value.message == "--frames: must be at most 241; --width: must be at least 256"
    assert caught.value.exit_code == ExitCode.USAGE


def test_exit_code_is_3_when_admission_is_overloaded(submit: Run, threaded_admission: Served) -> None:
    threaded_admission.script.refusal = ServiceError(code=ErrorCode.QUEUE_OVERLOADED, message="25 requests wait.", retry_after_s=12)
    with pytest.raises(CommandError) as caught:
        submit()
    assert (caught.value.message, caught.value.exit_code) == ("25 requests wait. Try again in 12 s.", ExitCode.UNAVAILABLE)


def test_exit_code_is_3_when_nobody_listens(runner: CliRunner) -> None:
    # Port 1 is never served here.
    result = runner.invoke(app, ["lanes", "--address", "127.0.0.1:1"])
    assert isinstance(result.exception, CommandError)
    assert result.exception.exit_code == ExitCode.UNAVAILABLE
    assert "warmlane up" in result.exception.message


def test_number_is_refused_when_it_does_not_fit_the_message(submit: Run) -> None:
    with pytest.raises(CommandError) as caught:
        submit("--width", "99999999999")
    assert caught.value.exit_code == ExitCode.USAGE


def test_json_has_plain_values_when_it_is_asked_for(run: Run, threaded_admission: Served) -> None:
    threaded_admission.script.watched = [made_task(task_pb2.TASK_STATE_DONE)]
    told = json.loads(run("status", TASK_ID, "--json").stdout)
    assert told["state"] == "done"
    assert told["created_at"] == "2026-01-01T00:00:00Z"
    assert told["result"]["size_bytes"] == len(VIDEO)
    assert told["failure"] is None


def test_every_change_is_one_line_when_watched_as_json(run: Run, threaded_admission: Served) -> None:
    threaded_admission.script.watched = [made_task(progress=10), made_task(task_pb2.TASK_STATE_DONE)]
    # GetTask of the double peeks at the script, WatchTask then tells all of it.
    lines = run("watch", TASK_ID, "--json").stdout.splitlines()
    assert [json.loads(line)["progress"] for line in lines] == [10, 100]


def test_video_is_written_when_a_task_is_watched_with_an_output(run: Run, threaded_admission: Served, tmp_path: Path) -> None:
    threaded_admission.script.watched = [made_task(task_pb2.TASK_STATE_DONE)]
    run("watch", TASK_ID, "--output", str(tmp_path / "late.mp4"))
    assert (tmp_path / "late.mp4").read_bytes() == VIDEO


def test_state_is_shown_when_a_task_is_cancelled(run: Run) -> None:
    assert "cancelled" in run("cancel", TASK_ID).stdout


def test_lane_is_shown_with_its_reason_when_it_is_cold(run: Run, threaded_admission: Served) -> None:
    lane = operator_service_pb2.LaneSnapshot(
        lane_id="lane-anisora", models=["anisora"], availability=operator_service_pb2.AVAILABILITY_COLD, reason="loads [weights]"
    )
    threaded_admission.script.snapshot.lanes.append(lane)
    shown = run("lanes").stdout
    assert "lane-anisora" in shown
    assert "cold" in shown


def test_load_is_shown_with_its_percent_and_bytes_when_a_lane_reads(run: Run, threaded_admission: Served) -> None:
    load = generation_pb2.LoadProgress(model="anisora", stage="loading the VAE", read_bytes=7 * 1024**3, total_bytes=32 * 1024**3)
    failure = generation_pb2.StartFailure(cause=generation_pb2.START_FAILURE_CAUSE_WEIGHTS_MISSING, reason="no folder", attempts=2)
    lane = operator_service_pb2.LaneSnapshot(lane_id="lane-anisora", reason="anisora is being loaded", load=load, start_failure=failure)
    threaded_admission.script.snapshot.lanes.append(lane)
    assert "anisora is being loaded: loading the VAE, 21 % (7.0 of 32.0 GiB)" in run("lanes").stdout
    [document] = json.loads(run("lanes", "--json").stdout)["lanes"]
    assert document["load"] == {"model": "anisora", "stage": "loading the VAE", "read_bytes": 7 * 1024**3, "total_bytes": 32 * 1024**3}
    assert document["start_failure"]["cause"] == "weights_missing"


def test_stage_is_shown_alone_when_nothing_is_read_yet(run: Run, threaded_admission: Served) -> None:
    load = generation_pb2.LoadProgress(stage="importing the libraries")
    threaded_admission.script.snapshot.lanes.append(operator_service_pb2.LaneSnapshot(lane_id="lane-anisora", load=load))
    shown = run("lanes").stdout
    assert "importing the libraries" in shown
    assert "%" not in shown


def test_both_tasks_are_shown_when_a_lane_finishes_one_beside_the_other(run: Run, threaded_admission: Served) -> None:
    earlier = operator_service_pb2.FinishingTask(task_id="aa", attempt=1, progress=93)
    lane = operator_service_pb2.LaneSnapshot(lane_id="lane-anisora", task_id="bb", attempt=2, progress=40, finishing=earlier)
    threaded_admission.script.snapshot.lanes.append(lane)
    words = " ".join(run("lanes").stdout.split())
    assert "bb #2" in words
    assert "finishing" in words
    assert "aa #1" in words


@pytest.mark.parametrize(("reason", "told"), [("", "waits for the"), ("it is being stopped", "it is being stopped; waits for the")])
def test_failure_of_the_object_store_is_shown_when_a_lane_waits_for_it(
    run: Run, threaded_admission: Served, reason: str, told: str
) -> None:
    lane = operator_service_pb2.LaneSnapshot(lane_id="lane-anisora", reason=reason, object_store_failure="GenericError: [no] route")
    threaded_admission.script.snapshot.lanes.append(lane)
    assert f"{told} object store: GenericError: [no] route" in run("lanes").stdout
    [document] = json.loads(run("lanes", "--json").stdout)["lanes"]
    assert document["object_store_failure"] == "GenericError: [no] route"


def test_memory_is_shown_when_a_lane_has_said_what_it_has(run: Run, threaded_admission: Served) -> None:
    lane = operator_service_pb2.LaneSnapshot(
        lane_id="lane-anisora",
        gpu="NVIDIA A10G",
        memory_budget_bytes=21 * 1024**3,
        retired_placements=[operator_service_pb2.RetiredPlacement(model="anisora", placement="resident")],
    )
    threaded_admission.script.snapshot.lanes.append(lane)
    shown = run("lanes").stdout
    for told in ("NVIDIA A10G", "21.00 GiB", "resident of anisora"):
        assert told in shown
    [document] = json.loads(run("lanes", "--json").stdout)["lanes"]
    assert document["memory_budget_bytes"] == 21 * 1024**3
    assert document["retired_placements"] == [{"model": "anisora", "placement": "resident"}]


def test_depth_is_shown_when_requests_wait(run: Run, threaded_admission: Served) -> None:
    threaded_admission.script.snapshot.queues.add(model="phr00t", depth=4, max_depth=25)
    threaded_admission.script.snapshot.degraded.MergeFrom(operator_service_pb2.DegradedSnapshot(depth=3, max_depth=25, held=2, rescued=1))
    shown = run("queue").stdout
    assert "phr00t" in shown
    assert "3 of 25 places taken (2 held, 1 rescued)" in shown


def test_way_of_new_requests_is_shown_when_a_model_falls_back(run: Run, threaded_admission: Served) -> None:
    queue = operator_service_pb2.QueueSnapshot(model="phr00t", fallback_reason=task_pb2.FALLBACK_REASON_QUOTA)
    queue.fallback_since.FromJsonString("2026-01-01T00:00:00Z")
    queue.quota_denied_until.FromJsonString("2026-01-01T01:00:00Z")
    queue.predicted_wait.FromMilliseconds(12_345)
    threaded_admission.script.snapshot.queues.extend([operator_service_pb2.QueueSnapshot(model="anisora"), queue])
    shown = run("queue").stdout
    assert "its own lanes" in shown
    for told in ("the degraded pool (quota since 2026-01-01T00:00:00Z)", "2026-01-01T01:00:00Z", "12.3 s"):
        assert told in shown


@pytest.mark.parametrize(("words", "resumed"), [((), False), (("--resume",), True)])
def test_lane_is_shown_as_it_stands_when_it_was_drained(
    run: Run, threaded_admission: Served, words: tuple[str, ...], resumed: bool
) -> None:
    shown = run("drain", "lane-anisora", *words).stdout
    assert threaded_admission.script.told == [("lane-anisora", resumed)]
    assert ("ready, drained" in shown) is not resumed


@pytest.mark.parametrize(("switch", "told"), [("on", "the degraded pool (manual)"), ("off", "its own lanes")])
def test_queue_is_shown_as_it_stands_when_a_model_was_sent_to_the_pool(
    run: Run, threaded_admission: Served, switch: str, told: str
) -> None:
    assert told in run("fallback", "phr00t", switch).stdout
    assert threaded_admission.script.told == [("phr00t", switch == "on")]
    assert json.loads(run("fallback", "phr00t", switch, "--json").stdout)["manual_fallback"] is (switch == "on")


def test_fallback_says_which_models_there_are_when_it_is_none_of_them(run: Run) -> None:
    # It said "--model: must be …", and the command has no such option.
    with pytest.raises(CommandError, match="MODEL must be one of anisora, phr00t, not 'wan'") as caught:
        run("fallback", "wan", "on")
    assert caught.value.exit_code == ExitCode.USAGE


def test_fallback_is_refused_when_it_is_neither_on_nor_off(run: Run) -> None:
    assert run("fallback", "phr00t", "maybe").exit_code == ExitCode.USAGE


def _page() -> operator_service_pb2.WatchEventsResponse:
    event = task_pb2.TaskEvent(
        event_type="fallback_activated", value="degraded_shared", reason="capacity", sequence=12, task_id=TASK_ID, model="anisora"
    )
    event.created_at.FromJsonString("2026-01-01T00:00:00Z")
    return operator_service_pb2.WatchEventsResponse(events=[event], last_sequence=12)


def test_each_event_is_one_line_when_events_are_shown(run: Run, threaded_admission: Served) -> None:
    threaded_admission.script.pages = [_page()]
    shown = run("events").stdout
    expected = f"12  2026-01-01T00:00:00Z  fallback_activated  degraded_shared  (capacity)  model anisora  task {TASK_ID}\n"
    assert shown == expected


def test_each_event_is_one_object_a_line_when_json_is_asked_for(run: Run, threaded_admission: Served) -> None:
    threaded_admission.script.pages = [_page(), _page()]
    lines = [json.loads(line) for line in run("events", "--json").stdout.splitlines()]
    assert [(line["event_type"], line["sequence"], line["memory"]) for line in lines] == [("fallback_activated", 12, None)] * 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", {"no_follow": True}),
        ("--follow", {"only_new": True}),
        ("-f --after 0", {}),
        ("--after 7 --type a --type b", {"no_follow": True, "after_sequence": 7, "event_types": ["a", "b"]}),
        (f"--task {TASK_ID} --lane lane-x", {"no_follow": True, "task_id": TASK_ID, "lane_id": "lane-x"}),
    ],
)
def test_events_are_asked_for_as_the_options_say(run: Run, threaded_admission: Served, words: str, expected: dict[str, Any]) -> None:
    run("events", *words.split())
    assert threaded_admission.script.event_requests == [operator_service_pb2.WatchEventsRequest(**expected)]


def test_break_is_said_when_admission_comes_back(run: Run, threaded_admission: Served) -> None:
    started = made_task(progress=10)
    started.events.add(event_type="attempt_started", sequence=5)
    threaded_admission.script.watched = [started, None, made_task(task_pb2.TASK_STATE_DONE)]
    told = run("watch", TASK_ID).stderr
    assert "waiting for it, at most 60 s" in told
    assert "admission is back; going on after event 5" in told


def test_way_to_go_on_is_told_when_admission_stays_away(submit: Run, threaded_admission: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    threaded_admission.script.watched = [None]
    monkeypatch.setattr(session, "PATIENCE_S", 0.0)
    with pytest.raises(CommandError, match=rf"did not come back within 60 s.*watch {TASK_ID}") as caught:
        submit("--wait")
    assert caught.value.exit_code == ExitCode.UNAVAILABLE


def test_pictures_are_uploaded_in_order_when_two_are_given(submit: Run, threaded_admission: Served, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    submit("--image", str(tmp_path / "a.png"), "--image", str(tmp_path / "b.png"))
    assert threaded_admission.script.uploads == [b"a.png", b"b.png"]
    request = threaded_admission.script.submitted[0]
    assert request.mode == "first_last_frame"
    assert request.first_frame_image.key != request.last_frame_image.key


def test_keyframes_keep_their_places_when_they_are_given_with_index_and_strength(
    submit: Run, threaded_admission: Served, tmp_path: Path
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"a")
    submit("--image", f"{picture}@0", "--image", f"{picture}@16:0.5")
    request = threaded_admission.script.submitted[0]
    assert request.mode == "arbitrary_frame"
    assert [(one.frame_index, one.strength if one.HasField("strength") else None) for one in request.arbitrary_frames] == [
        (0, None),
        (16, 0.5),
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--mode i2v", "takes 1 --image, not 0"),
        ("--mode t2v --image {picture}", "takes 0 --image, not 1"),
        ("--mode first_last_frame --image {picture}", "takes 2 --image, not 1"),
        ("--mode arbitrary_frame", "at least one --image"),
        ("--mode arbitrary_frame --image {picture}", "PATH@INDEX"),
        ("--image {picture}.missing", "no such file"),
    ],
)
def test_nothing_is_sent_when_the_pictures_do_not_fit_the_mode(
    submit: Run, threaded_admission: Served, tmp_path: Path, words: str, told: str
) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"a")
    with pytest.raises(CommandError, match=told) as caught:
        submit(*shlex.split(words.format(picture=picture)))
    assert caught.value.exit_code == ExitCode.USAGE
    assert (threaded_admission.script.uploads, threaded_admission.script.submitted) == ([], [])


def test_one_picture_means_i2v_when_no_mode_is_given(submit: Run, threaded_admission: Served, tmp_path: Path) -> None:
    # A name with an @ is a plain file name where such a file is there.
    picture = tmp_path / "me@8"
    picture.write_bytes(b"a")
    submit("--image", str(picture))
    request = threaded_admission.script.submitted[0]
    assert (request.mode, request.HasField("reference_image")) == ("i2v", True)


def test_picture_is_named_when_admission_refuses_it(submit: Run, threaded_admission: Served, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"not a picture")
    violation = Violation(field="chunk", message="The image is not PNG, JPEG or WebP.")
    threaded_admission.script.refusal = ServiceError(code=ErrorCode.VALIDATION_ERROR, message="wrong", violations=(violation,))
    with pytest.raises(CommandError) as caught:
        submit("--image", str(picture))
    assert caught.value.message == f"--image {picture}: The image is not PNG, JPEG or WebP."


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Processes started here hear SIGINT, also where the tests run in a shell's background, which ignores it for all below."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_way_to_resume_is_told_when_waiting_is_interrupted(threaded_admission: Served) -> None:
    threaded_admission.script.watched = [made_task(progress=10)]
    threaded_admission.script.hangs = True
    command = [sys.executable, "-m", "command_line", "submit", "--model", "anisora", "--prompt", "a boat", "--wait"]
    command += ["--address", threaded_admission.address]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        # The first line of progress that shows the watched state: from then on it waits.
        while "10 %" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        told = process.stderr.read()
    assert f"watch {TASK_ID} --address {threaded_admission.address}" in told
    assert process.returncode == ExitCode.INTERRUPTED
