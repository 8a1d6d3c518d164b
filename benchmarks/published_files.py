"""`python -m benchmarks.published_files FOLDER`: small files in the layouts of the models' authors, to try `warmlane prepare` with.

Their weights are random, so clips of them are noise; everything else is as with the real files: names, prefixes, types, scales. Prints the
commands that go on from there, to lanes that render without a GPU.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from tests.harness.published_layouts import Format
from tests.harness.published_models import BOTH, write_published


def main() -> None:
    """Writes and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="is made; a folder for each model")
    parser.add_argument(
        "--format", type=Format, choices=list(Format), help="of the matrices; by default bf16 for anisora, scaled for phr00t"
    )
    parser.add_argument("--t2v", action="store_true", help="the text-to-video pair for anisora too")
    arguments = parser.parse_args()
    models_dir = arguments.folder / "data" / "models"
    for model in BOTH:
        style = arguments.format or {"anisora": Format.BF16, "phr00t": Format.SCALED}[model]
        published = write_published(model, arguments.folder / model, style, with_t2v=arguments.t2v and model == "anisora")
        print(shlex.join(["warmlane", "prepare", model, "--models-dir", str(models_dir), *published.options()]))
    print(shlex.join(["env", "WARMLANE_DEVICE=cpu", "warmlane", "up", "--profile", "a10g", "--data-dir", str(arguments.folder / "data")]))


if __name__ == "__main__":
    main()
