"""Every model in every mode, through every process, to a file that plays."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from tests.harness.http import Frontend
from tests.harness.video import data_uri, decode, picture

_RED, _BLUE, _GREEN = (data_uri(picture(colour)) for colour in ((200, 60, 40), (40, 60, 200), (40, 180, 60)))
_IMAGES: dict[str, dict[str, Any]] = {
    "t2v": {},
    "i2v": {"reference_image": _RED},
    "first_last_frame": {"first_frame_image": _RED, "last_frame_image": _BLUE},
    "arbitrary_frame": {
        "arbitrary_frames": [
            {"frame_index": 0, "image": _RED},
            {"frame_index": 8, "image": _GREEN, "strength": 0.9},
            {"frame_index": 16, "image": _BLUE},
        ]
    },
}
# Sizes, counts and rates differ from case to case, so that a value that does not reach the file cannot pass.
_CASES = [
    ("anisora", "t2v", 256, 320, 17, 16, "mp4"),
    ("anisora", "i2v", 320, 256, 9, 24, "mp4"),
    ("anisora", "first_last_frame", 256, 256, 17, 8, "webm"),
    ("anisora", "arbitrary_frame", 272, 256, 17, 16, "mp4"),
    ("phr00t", "t2v", 256, 288, 13, 24, "mp4"),
    ("phr00t", "i2v", 256, 256, 9, 8, "webm"),
    ("phr00t", "first_last_frame", 304, 256, 17, 16, "mp4"),
]


@pytest.mark.parametrize(("model", "mode", "width", "height", "frames", "fps", "container"), _CASES)
def test_file_has_the_asked_frames_size_and_rate_when_a_mode_is_rendered(
    frontend: Frontend, model: str, mode: str, width: int, height: int, frames: int, fps: int, container: str
) -> None:
    status, content = frontend.render(
        model=model,
        mode=mode,
        prompt="a paper boat on a quiet pond",
        width=width,
        height=height,
        num_frames=frames,
        fps=fps,
        output_format=container,
        seed=7,
        **_IMAGES[mode],
    )
    seen = decode(content)
    assert (seen.width, seen.height, seen.frames, seen.rate) == (width, height, frames, Fraction(fps))
    assert (seen.codec, seen.pixel_format) == ({"mp4": "h264", "webm": "vp9"}[container], "yuv420p")
    assert status["lane_mode"] == "dedicated"
    assert status["progress"] == 100
    assert status["text_to_video_weights"] == ("image_to_video_experts" if (model, mode) == ("anisora", "t2v") else None)


def test_size_and_count_are_the_nearest_not_above_when_the_model_needs_others(frontend: Frontend) -> None:
    task_id = frontend.generate(model="anisora", prompt="a kite over dunes", width=270, height=300, num_frames=12, seed=1)
    frontend.wait(task_id)
    seen = decode(frontend.result(task_id))
    assert (seen.width, seen.height, seen.frames) == (256, 288, 9)
    item = next(item for item in frontend.client.get("/gallery").json()["items"] if item["id"] == task_id)
    assert (item["parameters"]["width"], item["parameters"]["height"], item["parameters"]["num_frames"]) == (256, 288, 9)


@pytest.mark.parametrize("model", [pytest.param("anisora", marks=pytest.mark.long), "phr00t"])
def test_bytes_are_the_same_twice_and_differ_with_another_seed(frontend: Frontend, model: str) -> None:
    body = {"model": model, "prompt": "a lantern in the rain", "width": 256, "height": 256, "num_frames": 9}
    (_, first), (_, again), (_, other) = (frontend.render(**body, seed=seed) for seed in (11, 11, 12))
    assert first == again
    assert first != other


def test_seed_is_recorded_when_it_was_left_to_the_server(frontend: Frontend) -> None:
    body = {"model": "phr00t", "prompt": "waves at dusk", "width": 256, "height": 256, "num_frames": 5}
    status, content = frontend.render(**body, seed=-1)
    item = next(item for item in frontend.client.get("/gallery").json()["items"] if item["id"] == status["task_id"])
    assert item["seed"] >= 0
    assert frontend.render(**body, seed=item["seed"])[1] == content


@pytest.mark.parametrize("requests", [6, pytest.param(20, marks=pytest.mark.long)])
def test_every_request_is_served_when_the_models_alternate(frontend: Frontend, requests: int) -> None:
    task_ids = [
        frontend.generate(model=("anisora", "phr00t")[turn % 2], prompt=f"scene {turn}", width=256, height=256, num_frames=9, seed=turn)
        for turn in range(requests)
    ]
    statuses = [frontend.wait(task_id, timeout_s=180.0) for task_id in task_ids]
    assert [status["status"] for status in statuses] == ["done"] * requests
    assert {decode(frontend.result(task_id)).frames for task_id in task_ids} == {9}


def test_models_tell_what_renders_a_text_when_lanes_have_told(frontend: Frontend) -> None:
    models = {model["id"]: model["text_to_video_weights"] for model in frontend.client.get("/models").json()["models"]}
    assert models == {"anisora": ["image_to_video_experts"], "phr00t": []}


def test_a_memory_record_is_kept_for_every_attempt(frontend: Frontend) -> None:
    status, _ = frontend.render(model="anisora", prompt="a quiet street", width=256, height=256, num_frames=9)
    events = status["diagnostics"]["events"]
    assert [event["event_type"] for event in events].count("memory_record") == status["attempt"] == 1
