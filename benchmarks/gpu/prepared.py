"""`python -m benchmarks.gpu.prepared FOLDER MODEL`: a folder as `warmlane prepare` makes it, of the real sizes, with random weights.

The weights are made on the GPU where there is one, so a folder takes about as long as its bytes take to be written and hashed. What differs
from a prepared folder: no source is named in the manifest, and the tokenizer knows few words.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from benchmarks.gpu.random_models import filled_tensor, write_configurations
from runtime.fit.ladder import TEXT_ENCODER
from runtime.lane.wan.manifest import FILE_NAME, FORMAT, PUBLISHED_SIZES, FileEntry, Manifest
from runtime.lane.wan.networks import stored_types
from runtime.lane.wan.parts import layout_of
from runtime.lane.wan.skeleton import computed_buffers
from runtime.lane.wan.tracing_networks import Subject, subjects

if TYPE_CHECKING:
    from runtime.lane.wan.parts import StoredTensor

VARIANTS = {"anisora": "v3.2", "phr00t": "mega-v11"}
"""What the folders say that they are. Mega v11 takes 4 passes where v12 takes 7."""

_TYPES = {torch.float8_e4m3fn: "F8_E4M3", torch.bfloat16: "BF16", torch.float32: "F32"}


class _Hashed:
    """A file that is hashed as it is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def write(self, content: memoryview | bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self.size_bytes += len(content)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def write_prepared(folder: Path, model: str, device: str, *, profile: str = "a10g") -> Manifest:
    """Writes the folder.

    Args:
        folder: to be made.
        model: `anisora` or `phr00t`.
        device: where random numbers are made.
        profile: `a10g`: networks of the published sizes; `tiny`: tiny ones, stored as the others.
    """
    subject = next(one for one in subjects() if (one.model, one.profile) == (model, profile))
    folder.mkdir(parents=True)
    write_configurations(subject, folder)
    # One at a time: making empty networks changes what torch makes in the whole process.
    making = threading.Lock()
    with ThreadPoolExecutor(len(subject.parts)) as writers:
        weights = list(writers.map(lambda name: _write_weights(folder, subject, name, device, making), subject.parts))
    others = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".safetensors"]
    manifest = Manifest(
        format=FORMAT,
        model=model,
        variant=VARIANTS[model],
        storage="fp8",
        sizes=PUBLISHED_SIZES if profile == "a10g" else profile,
        parts=tuple(subject.parts),
        sources=(),
        files=(*weights, *(_entry(folder, file) for file in others)),
        tool="benchmarks.gpu.prepared: random weights",
    )
    (folder / FILE_NAME).write_text(manifest.text(), encoding="utf-8")
    return manifest


def _write_weights(folder: Path, subject: Subject, name: str, device: str, making: threading.Lock) -> FileEntry:
    """One part, group by group, in the order in which lanes read."""
    with making:
        module = subject.build(name, True)
        computed = computed_buffers(module)
        layout = layout_of(name, module, stored_types(name, module, "fp8"))
    tensors = [stored for group in layout for stored in group.tensors if stored.name not in computed]
    generator = torch.Generator(device).manual_seed(1)
    path = f"{name}/model.safetensors" if name == TEXT_ENCODER else f"{name}/diffusion_pytorch_model.safetensors"
    with (folder / path).open("wb") as file:
        hashed = _Hashed(file)
        hashed.write(_header(tensors))
        for stored in tensors:
            made = filled_tensor(stored, generator).cpu().contiguous().view(-1).view(torch.uint8)
            hashed.write(made.numpy().data)
        return FileEntry(path=path, size_bytes=hashed.size_bytes, sha256=hashed.sha256)


def _header(tensors: list[StoredTensor]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for stored in tensors:
        end = offset + stored.size_bytes
        entries[stored.name] = {"dtype": _TYPES[stored.dtype], "shape": list(stored.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def _entry(folder: Path, file: Path) -> FileEntry:
    content = file.read_bytes()
    return FileEntry(path=file.relative_to(folder).as_posix(), size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="is made")
    parser.add_argument("model", choices=tuple(VARIANTS))
    parser.add_argument("--profile", choices=("a10g", "tiny"), default="a10g", help="whose networks")
    chosen = parser.parse_args()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    manifest = write_prepared(chosen.folder, chosen.model, device, profile=chosen.profile)
    print(f"{chosen.folder}: {sum(entry.size_bytes for entry in manifest.files) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
