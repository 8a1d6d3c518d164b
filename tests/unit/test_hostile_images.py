"""The corpus of hostile images at the check that both doors use: each is taken or refused as it should, and nothing else happens."""

from __future__ import annotations

import base64
import time

import pytest

from runtime.images import InvalidImageError, check_data_uri, check_image, open_rgb
from tests.harness.hostile import Hostile
from tests.harness.hostile_images import hostile_images


def _is_taken(image: Hostile) -> bool:
    uri = f"data:{image.media_type};base64,{base64.b64encode(image.content).decode()}"
    try:
        checked = check_data_uri(uri)
    except InvalidImageError:
        return False
    assert checked.width * checked.height <= 64_000_000
    return True


# Pillow warns of damage that it passes over; the tests' settings make any warning an error.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_image_is_taken_or_refused_as_it_should_when_it_is_quick_to_look_at() -> None:
    images = list(hostile_images(costly=False))
    assert len(images) > 200
    assert len({image.name for image in images}) == len(images)
    wrong = [image.name for image in images if image.is_good is not None and _is_taken(image) is not image.is_good]
    assert wrong == []


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_lane_can_open_every_image_when_a_door_took_it() -> None:
    opened = 0
    for image in hostile_images(costly=False):
        try:
            checked = check_image(image.content)
        except InvalidImageError:
            continue
        if checked.width * checked.height <= 1_000_000:
            assert open_rgb(image.content).size == (checked.width, checked.height), image.name
            opened += 1
    assert opened > 50


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_image_takes_a_second_when_it_is_made_to_take_long() -> None:
    slow = {}
    for image in hostile_images():
        # Of the processor, not of the wall: other tests run beside this one.
        began_s = time.process_time()
        taken = _is_taken(image)
        took_s = time.process_time() - began_s
        assert image.is_good is None or taken is image.is_good, image.name
        if took_s > 1.0:
            slow[image.name] = took_s
    assert slow == {}
