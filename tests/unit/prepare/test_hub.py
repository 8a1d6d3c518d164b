"""Sources from the hub: listed at a commit, downloaded with their hashes compared, gone on with after a cut. The hub is one on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.preparation import Order, SourceOrder
from tests.harness.hub_double import COMMIT, HubDouble
from tests.harness.published_layouts import Format
from tests.harness.published_models import CHECKPOINT
from tests.unit.prepare.runs import contents, finished, order_of, run
from tests.unit.prepare.test_broken_files import left_to_open

if TYPE_CHECKING:
    from tests.harness.published_models import PublishedModel
    from tests.unit.prepare.conftest import Publisher

pytestmark = pytest.mark.torch

EXPERTS, BASE, PAIR = "IndexTeam/Index-anisora", "Wan-AI/Wan2.2-I2V-A14B-Diffusers", "Wan-AI/Wan2.2-T2V-A14B-Diffusers"
PHR00T = "Phr00t/WAN2.2-14B-Rapid-AllInOne"


@pytest.fixture
def source(published: Publisher) -> PublishedModel:
    """Phr00t's files."""
    return published("phr00t", Format.FP8)


@pytest.fixture
def hub(published: Publisher, source: PublishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """Both models where their authors publish them."""
    from huggingface_hub import constants

    anisora = published("anisora", Format.BF16)
    folders = {name: tmp_path / "hub" / name for name in (EXPERTS, BASE, PAIR, PHR00T)}
    shutil.copytree(anisora.folder / "V3.2", folders[EXPERTS] / "V3.2")
    shutil.copytree(anisora.folder / "base", folders[BASE])
    shutil.copytree(anisora.folder / "t2v", folders[PAIR])
    shutil.copytree(source.folder / "Mega-v12", folders[PHR00T] / "Mega-v12")
    with HubDouble(folders) as double:
        # The library makes both of HF_ENDPOINT when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", double.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{double.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
        yield double


def from_hub(source: PublishedModel, models_dir: Path, **changes: Any) -> Order:
    """An order that names no path."""
    return order_of(source, models_dir, **{"sources": {}, **changes})


def test_the_folder_is_that_of_local_files_when_everything_comes_from_the_hub(
    hub: HubDouble, source: PublishedModel, tmp_path: Path
) -> None:
    run(order_of(source, tmp_path / "local"))

    told = run(from_hub(source, tmp_path / "models"))

    manifest = finished(told).manifest
    local, mine = (contents(tmp_path / name / "phr00t") for name in ("local", "models"))
    assert {name: content for name, content in mine.items() if name != "manifest.json"} == {
        name: content for name, content in local.items() if name != "manifest.json"
    }
    first = manifest["sources"][0]  # type: ignore[index]  # it is the manifest's JSON
    expected = hashlib.sha256(source.sources["checkpoint"].read_bytes()).hexdigest()
    assert first == {
        "source": "checkpoint",
        "repository": PHR00T,
        "commit": COMMIT,
        "file": CHECKPOINT,
        "size_bytes": source.sources["checkpoint"].stat().st_size,
        "sha256": expected,
        "licence": "apache-2.0",
    }
    # Nothing but what is needed is asked for, once, and nothing of it stays.
    assert sorted(name for name, _ in hub.requests) == sorted([CHECKPOINT, "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"])
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [".phr00t.lock", "phr00t"]


def test_both_experts_the_base_and_the_pair_are_found_when_anisora_comes_from_the_hub(
    hub: HubDouble, published: Publisher, tmp_path: Path
) -> None:
    anisora = published("anisora", Format.BF16)

    told = run(from_hub(anisora, tmp_path / "models", with_t2v=True, keep_downloads=True, downloads_dir=tmp_path / "kept"))

    run(order_of(anisora, tmp_path / "local"))
    for part in ("transformer", "transformer_2", "text_encoder", "vae", "t2v_transformer", "t2v_transformer_2"):
        assert contents(tmp_path / "models" / "anisora" / part) == contents(tmp_path / "local" / "anisora" / part)
    kept = contents(tmp_path / "kept" / BASE.replace("/", "--") / COMMIT)
    assert kept == {name: content for name, content in contents(anisora.folder / "base").items() if name in kept}
    assert len(kept) == 6
    # Kept downloads are not asked for again.
    hub.requests.clear()
    run(from_hub(anisora, tmp_path / "again", with_t2v=True, keep_downloads=True, downloads_dir=tmp_path / "kept"))
    assert hub.requests == []
    assert finished(told).manifest["variant"] == "v3.2"


def test_a_download_goes_on_where_the_connection_was_cut(
    hub: HubDouble, source: PublishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    # The library keeps what came in whole pieces, of 10 MiB otherwise.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 25_000)
    hub.cut_after = 110_000

    told = run(from_hub(source, tmp_path / "models"))

    assert finished(told).manifest["variant"] == "mega-v12"
    ranges = [asked for name, asked in hub.requests if name == CHECKPOINT]
    assert ranges[0] is None
    assert ranges[1:] == ["bytes=100000-"]


def test_a_download_goes_on_where_the_process_was_stopped(hub: HubDouble, source: PublishedModel, tmp_path: Path) -> None:
    from runtime.lane.prepare.hub import fetch, list_repository

    class StoppedError(BaseException):
        pass

    listing = list_repository(PHR00T, "main")
    file = listing.files[CHECKPOINT]
    hub.cut_after = 150_000
    told: list[int] = []

    def stop(_item: str, count: int) -> None:
        if told and count:
            raise StoppedError
        told.append(count)

    with pytest.raises(StoppedError):
        fetch(listing, file, tmp_path / "models" / ".downloads", stop)
    part = next((tmp_path / "models" / ".downloads").rglob("*.part"))
    part.write_bytes(source.sources["checkpoint"].read_bytes()[:150_000])
    hub.requests.clear()
    hub.cut_after = None

    run(from_hub(source, tmp_path / "models"))

    assert (CHECKPOINT, "bytes=150000-") in hub.requests
    assert left_to_open(tmp_path / "models") == ["phr00t"]


@pytest.mark.parametrize("name", [CHECKPOINT, "tokenizer/tokenizer_config.json"])
def test_a_download_that_came_damaged_is_thrown_away_and_named(hub: HubDouble, source: PublishedModel, tmp_path: Path, name: str) -> None:
    from runtime.lane.prepare.failures import Cause, PrepareError

    hub.damaged = {name}
    if name.endswith("json"):
        # A damage that is still JSON, so that the hash alone can tell.
        file = hub.repositories[BASE] / name
        file.write_text(file.read_text() + " ")

    with pytest.raises(PrepareError, match=f"{name} came damaged: its hash is not what") as raised:
        run(from_hub(source, tmp_path / "models"))

    assert raised.value.cause is Cause.WRONG_SOURCE
    assert left_to_open(tmp_path / "models") == []
    hub.damaged = set()
    finished(run(from_hub(source, tmp_path / "models")))


def test_a_hash_of_the_caller_is_compared_before_the_download_and_after(hub: HubDouble, source: PublishedModel, tmp_path: Path) -> None:
    from runtime.lane.prepare.failures import PrepareError

    right = hashlib.sha256(source.sources["checkpoint"].read_bytes()).hexdigest()
    with pytest.raises(PrepareError, match=r"the hub states the SHA-256 .* and --sha256 says 0000"):
        run(from_hub(source, tmp_path, sources={"checkpoint": SourceOrder(sha256="0" * 64)}))
    assert hub.requests == []
    local = {"checkpoint": SourceOrder(path=source.sources["checkpoint"], sha256="0" * 64)}
    with pytest.raises(PrepareError, match=r"has the SHA-256 .* and --sha256 says 0000"):
        run(from_hub(source, tmp_path, sources=local))

    finished(run(from_hub(source, tmp_path, sources={"checkpoint": SourceOrder(sha256=right)})))


@pytest.mark.parametrize(
    ("source_order", "error", "sentence"),
    [
        (SourceOrder(revision="v13"), None, "has no revision 'v13': name a branch, a tag or a whole commit"),
        (SourceOrder(repository="Phr00t/Other"), None, "the hub has no repository Phr00t/Other"),
        (SourceOrder(repository="a//b"), None, "'a//b' is no name of a repository"),
        (
            SourceOrder(file="Mega-v13/none.safetensors"),
            None,
            "has no weights at Mega-v13/none.safetensors, where the all-in-one file should be",
        ),
        (SourceOrder(), (HTTPStatus.FORBIDDEN, "GatedRepo"), "is gated: accept its conditions.*HF_TOKEN"),
        (SourceOrder(), (HTTPStatus.BAD_GATEWAY, ""), "the hub answered 502"),
    ],
)
def test_what_to_do_is_said_when_the_hub_refuses(
    hub: HubDouble, source: PublishedModel, tmp_path: Path, source_order: SourceOrder, error: Any, sentence: str
) -> None:
    from runtime.lane.prepare.failures import PrepareError

    hub.error = error

    with pytest.raises(PrepareError, match=sentence):
        run(from_hub(source, tmp_path / "models", sources={"checkpoint": source_order}))

    assert left_to_open(tmp_path / "models") == []


def test_local_paths_are_named_as_the_way_out_when_there_is_no_network(
    source: PublishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from runtime.lane.prepare.failures import PrepareError

    # Port 9 of loopback: nobody listens.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PrepareError, match=r"the hub does not answer at http://127.0.0.1:9 .*name them as local paths"):
        run(from_hub(source, tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PrepareError, match=r"HF_HUB_OFFLINE is set.*name them as local paths"):
        run(from_hub(source, tmp_path))


def test_the_disk_is_looked_at_before_a_download(
    hub: HubDouble, source: PublishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.lane.prepare.failures import PrepareError

    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: usage)

    with pytest.raises(PrepareError, match=r"has 0.0 GB free, and .* GB are to be downloaded"):
        run(from_hub(source, tmp_path))

    assert hub.requests == []


def test_unknown_sources_and_contradictions_are_refused_before_anything_is_asked(
    hub: HubDouble, source: PublishedModel, tmp_path: Path
) -> None:
    from runtime.lane.prepare.failures import Cause, PrepareError

    path = source.sources["checkpoint"]
    for sources, sentence in (
        ({"high": SourceOrder(path=path)}, "phr00t has no source high; it has --checkpoint, --base"),
        ({"checkpoint": SourceOrder(path=path, revision="main")}, "a local path, or a repository of the hub, not both"),
        ({"base": SourceOrder(sha256="0" * 64)}, "it is a folder; only a source of one file has a hash"),
    ):
        with pytest.raises(PrepareError, match=sentence) as raised:
            run(from_hub(source, tmp_path, sources=sources))
        assert raised.value.cause is Cause.ASKED
    with pytest.raises(PrepareError, match="--variant: phr00t has mega-v12, mega-v11, not mega-v10"):
        run(from_hub(source, tmp_path, variant="mega-v10"))
    assert hub.requests == []


@pytest.mark.long
def test_the_command_prepares_and_checks_when_everything_comes_from_the_hub_of_the_environment(
    hub: HubDouble, source: PublishedModel, tmp_path: Path
) -> None:
    root = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join([str(root), str(root / "protos" / "gen")])
    environment = {**os.environ, "PYTHONPATH": paths, "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "command_line", "prepare", "phr00t", "--models-dir", str(tmp_path / "models")]

    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    made = call("--sizes", str(source.sizes))
    assert made.returncode == 0, made.stderr
    for text in (f"{PHR00T}@{COMMIT}", "apache-2.0", "downloading: ", "is whole: phr00t mega-v12, stored as fp8"):
        assert text in made.stdout
    run(order_of(source, tmp_path / "local"))
    for part in ("transformer", "text_encoder", "vae", "tokenizer"):
        assert contents(tmp_path / "models" / "phr00t" / part) == contents(tmp_path / "local" / "phr00t" / part)

    assert call("--check").returncode == 0
    (tmp_path / "models" / "phr00t" / "vae" / "config.json").unlink()
    checked = call("--check", "--json")
    assert checked.returncode == 1
    assert json.loads(checked.stdout.splitlines()[-1])["differences"] == ["vae/config.json is missing"]
    refused = call("--variant", "mega-v10")
    assert refused.returncode == 2
    assert "--variant: phr00t has mega-v12, mega-v11, not mega-v10" in refused.stderr
