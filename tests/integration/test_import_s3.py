"""Imports into an S3 store: nothing is left of one that was refused or cut off, the parts of its upload neither."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from obstore.store import from_url
from warmlane.admission.v1 import operator_service_pb2 as pb

from tests.harness.admission_services import admission_stack, error_of, until
from tests.harness.imports import MP4, jpeg, old_task, parts
from tests.harness.moto_store import BUCKET, MotoStore, moto_store, with_environment

LONG = MP4 + bytes(20 * 1024 * 1024)
PIECE = 1024 * 1024


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoStore]:
    with moto_store() as store:
        yield store


async def counts(moto: MotoStore) -> tuple[int, int]:
    """Objects, and uploads that have begun and not ended."""
    address = f"{moto.environment['AWS_ENDPOINT_URL']}/{BUCKET}"
    async with httpx.AsyncClient(timeout=10) as http:
        objects, uploads = [(await http.get(f"{address}?{query}")).text for query in ("list-type=2", "uploads")]
    return objects.count("<Key>"), uploads.count("<UploadId>")


@pytest.mark.long
async def test_whole_files_are_stored_and_nothing_else_when_imports_end_in_every_way(moto: MotoStore, tmp_path: Path) -> None:
    with with_environment(moto.environment):
        objects = from_url(moto.url, client_options={"allow_http": True})
    async with admission_stack(tmp_path, objects=objects) as stack:

        async def is_uploading() -> bool:
            return (await counts(moto))[1] == 1

        async def is_clean() -> bool:
            return await counts(moto) == (0, 0)

        cut = stack.operators.ImportTask(timeout=60)
        for part in parts(old_task(result_size_bytes=len(LONG) + 1), LONG, piece=PIECE):
            await cut.write(part)
        await until(is_uploading)
        cut.cancel()
        await until(is_clean)

        # Refused at its end, when the video is nearly stored.
        refused = await error_of(stack.operators.ImportTask(parts(old_task(), LONG, jpeg()[:300], piece=PIECE), timeout=30))
        assert refused.code == "validation_error"
        assert await counts(moto) == (0, 0)

        whole = await asyncio.gather(
            *(stack.operators.ImportTask(parts(old_task(), LONG, jpeg(), piece=PIECE), timeout=60) for _ in range(2))
        )
        assert sorted(answer.outcome for answer in whole) == [pb.IMPORT_OUTCOME_IMPORTED, pb.IMPORT_OUTCOME_ALREADY_THERE]
        assert await counts(moto) == (2, 0)
        assert await stack.engine.imports.remove_broken() == 0
