"""An import whose admission breaks off, refuses or goes away, and whose files do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from typer.testing import CliRunner
from warmlane.admission.v1 import operator_service_pb2 as pb

from command_line import session
from command_line.__main__ import app
from command_line.client import admission_client
from command_line.failures import CommandError, ExitCode
from command_line.gallery.files import UnusableFileError
from runtime.credentials import ServerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.roles import Role
from runtime.rules.request import Violation
from tests.harness.credentials import TOKENS
from tests.harness.imports import MP4, old_task, parts
from tests.harness.old_gallery import OldGallery
from tests.unit.command_line.conftest import Served, served_beside

AWAY = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Admission is stopping.", retry_after_s=1.0)


async def sent() -> AsyncGenerator[pb.ImportTaskRequest, None]:
    """A task and its file."""
    for part in parts(old_task(), MP4):
        yield part


async def test_task_and_files_are_sent_again_when_admission_breaks_off(admission: Served) -> None:
    admission.script.outcomes = [AWAY, pb.IMPORT_OUTCOME_ALREADY_THERE]
    async with admission_client(admission.address) as client:
        assert not await client.import_task(sent)
        assert await client.import_task(sent)
    assert admission.script.imports == [list(parts(old_task(), MP4))] * 3


async def test_import_is_given_up_when_admission_stays_away(admission: Served) -> None:
    admission.script.outcomes = [AWAY]
    async with admission_client(admission.address, patience_s=0) as client:
        with pytest.raises(ServiceError) as caught:
            await client.import_task(sent)
    assert caught.value.code == ErrorCode.SERVICE_UNAVAILABLE


async def test_import_ends_with_the_reason_when_its_file_cannot_be_read(admission: Served) -> None:
    async def broken() -> AsyncGenerator[pb.ImportTaskRequest, None]:
        for part in parts(old_task(), MP4):
            yield part
        raise UnusableFileError

    async with admission_client(admission.address) as client:
        with pytest.raises(UnusableFileError):
            await client.import_task(broken)


@pytest.fixture
def old(tmp_path: Path) -> OldGallery:
    """A gallery of three videos."""
    old = OldGallery(tmp_path)
    for number in range(3):
        old.done(f"video-{number}")
    return old


def run(old: OldGallery, served: Served, *words: str) -> CommandError:
    """The error that ends the command."""
    result = CliRunner().invoke(app, ["import-gallery", str(old.file), *words, "--address", served.address])
    assert isinstance(result.exception, CommandError), result.output
    return result.exception


@pytest.mark.parametrize(
    ("code", "exit_code"), [(ErrorCode.FORBIDDEN, ExitCode.USAGE), (ErrorCode.SERVICE_UNAVAILABLE, ExitCode.UNAVAILABLE)]
)
def test_what_was_done_is_told_when_admission_ends_an_import(
    old: OldGallery, threaded_admission: Served, monkeypatch: pytest.MonkeyPatch, code: ErrorCode, exit_code: ExitCode
) -> None:
    monkeypatch.setattr(session, "PATIENCE_S", 0.0)
    threaded_admission.script.outcomes = [pb.IMPORT_OUTCOME_IMPORTED, ServiceError(code=code, message="No.")]
    error = run(old, threaded_admission)
    assert error.exit_code == exit_code
    assert "1 rows were taken over and 0 were there; run it again to go on" in error.message


def test_import_needs_the_operators_token_when_admission_has_tokens(old: OldGallery) -> None:
    with served_beside(ServerCredentials(tokens={role: (token,) for role, token in TOKENS.items()})) as served:
        words = ["import-gallery", str(old.file), "--address", served.address]
        tokens = {role: {f"WARMLANE_{role.name}_TOKEN": TOKENS[role]} for role in (Role.CLIENT, Role.OPERATOR)}
        refused = CliRunner().invoke(app, words, env=tokens[Role.CLIENT])
        assert isinstance(refused.exception, CommandError)
        assert (refused.exception.exit_code, "WARMLANE_OPERATOR_TOKEN" in refused.exception.message) == (ExitCode.USAGE, True)
        assert served.script.imports == []
        assert CliRunner().invoke(app, words, env=tokens[Role.OPERATOR]).exit_code == 0
        assert len(served.script.imports) == 3


def test_other_rows_go_on_when_admission_refuses_one(old: OldGallery, threaded_admission: Served) -> None:
    wrong = ServiceError(code=ErrorCode.VALIDATION_ERROR, message="Wrong.", violations=(Violation(field="request.mode", message="is odd"),))
    threaded_admission.script.outcomes = [wrong]
    result = CliRunner().invoke(app, ["import-gallery", str(old.file), "--address", threaded_admission.address])
    assert result.exit_code == 1
    assert "not taken over: video-0: request.mode is odd" in result.stdout
    assert result.stdout.splitlines()[-1] == "3 rows: 2 taken over, 0 there already, 0 of image models, 1 not taken over"
    assert [one[0].task.task_id for one in threaded_admission.script.imports] == ["video-0", "video-1", "video-2"]


def test_ctrl_c_ends_it_with_what_was_done_when_it_comes_between_rows(
    old: OldGallery, threaded_admission: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("command_line.gallery.screen.ImportScreen.advance", interrupt)
    error = run(old, threaded_admission)
    assert (error.exit_code, "1 rows were taken over" in error.message) == (ExitCode.INTERRUPTED, True)
