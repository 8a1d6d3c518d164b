"""The manifest of a prepared folder: read strictly, without torch, and checked to the last byte when asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.lane.prepare.check import check_folder
from runtime.lane.wan.manifest import FILE_NAME, Manifest, ManifestError, open_folder, read_manifest
from tests.harness.prepared import write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two files with their manifest."""
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("{}")
    (tmp_path / "vae" / "weights.safetensors").write_bytes(bytes(range(256)) * 40)
    return write_manifest(tmp_path, "anisora")


def check(folder: Path) -> list[str]:
    """Every difference."""
    return check_folder(folder, read_manifest(folder), lambda _item, _count: None)


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the manifest's JSON."""
    document = json.loads((folder / FILE_NAME).read_text())
    change(document)
    (folder / FILE_NAME).write_text(json.dumps(document))


def test_what_was_written_is_read_when_nothing_changed(folder: Path) -> None:
    manifest = open_folder(folder, "anisora")

    assert Manifest.model_validate_json(manifest.text()) == manifest
    assert [entry.path for entry in manifest.files] == ["vae/config.json", "vae/weights.safetensors"]
    assert check(folder) == []


def test_a_byte_that_changed_is_named_by_the_check_and_not_by_the_look_at_sizes(folder: Path) -> None:
    content = bytearray((folder / "vae" / "weights.safetensors").read_bytes())
    content[5000] ^= 1
    (folder / "vae" / "weights.safetensors").write_bytes(content)

    open_folder(folder, "anisora")
    (difference,) = check(folder)

    assert difference.startswith("vae/weights.safetensors has the SHA-256 ")
    assert difference.endswith("its content was changed")


def test_everything_that_differs_is_named_when_much_does(folder: Path) -> None:
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "weights.safetensors").write_bytes(b"short")
    (folder / "stray").write_text("")

    assert check(folder) == [
        "stray is not in the manifest",
        "vae/config.json is missing",
        "vae/weights.safetensors has 5 bytes, not 10240",
    ]
    with pytest.raises(ManifestError, match=r"is not whole: vae/config.json is missing; vae/weights.safetensors has 5 bytes"):
        open_folder(folder, "anisora")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda document: document.update(format=2), "is of format 2, which a newer version"),
        (lambda document: document.update(format=0), "is of format 0, which an older version"),
        (lambda document: document.update(format="1"), r"is damaged \(format\)"),
        (lambda document: document.pop("sources"), r"is damaged \(sources\)"),
        (lambda document: document.update(more=1), r"is damaged \(more\)"),
        (lambda document: document.update(storage="int8"), r"is damaged \(storage\)"),
        (lambda document: document["files"][0].update(size_bytes="2"), r"is damaged \(files.0.size_bytes\)"),
        (lambda document: document["files"][0].update(sha256="00"), r"is damaged \(files.0.sha256\)"),
        (lambda document: document["files"][0].update(path="../../else"), r"is damaged \(files.0.path\)"),
        (lambda document: document["files"][0].update(path="/etc/hosts"), r"is damaged \(files.0.path\)"),
    ],
)
def test_a_manifest_is_refused_when_it_is_not_exactly_one(folder: Path, change: Callable[[dict[str, Any]], None], sentence: str) -> None:
    changed(folder, change)

    with pytest.raises(ManifestError, match=sentence):
        read_manifest(folder)


def test_no_manifest_and_no_json_are_told_apart(folder: Path) -> None:
    (folder / FILE_NAME).write_text("{")
    with pytest.raises(ManifestError, match="it is no JSON"):
        read_manifest(folder)
    (folder / FILE_NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(folder)
    (folder / FILE_NAME).unlink()
    with pytest.raises(ManifestError, match="or not to its end"):
        read_manifest(folder)


def test_no_torch_is_imported_when_a_manifest_is_read_or_an_order_refused(folder: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    program = (
        "import sys\n"
        "import lane_anisora.prepare, runtime.lane.prepare.main\n"
        "from runtime.lane.wan.manifest import open_folder\n"
        "from pathlib import Path\n"
        f"open_folder(Path({str(folder)!r}), 'anisora')\n"
        "assert lane_anisora.prepare.main() == 2\n"
        "print([name for name in ('torch', 'diffusers', 'safetensors') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=True)

    told, modules = done.stdout.splitlines()
    assert json.loads(told)["cause"] == "asked"
    assert modules == "[]"
