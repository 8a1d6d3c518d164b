"""The eight hazards of diffusers 0.42.1 in a long-lived GPU process (facts/models.md): what each would do here, and does not."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.fit.placement import PLACEMENTS, MemoryPhase
from runtime.lane.memory.budget import BudgetMemory
from runtime.lane.renderer import RenderCancelled
from tests.harness.prepared import write_manifest
from tests.harness.short import crossed
from tests.unit.pipelines.jobs import ignore_stage, inner, load, make_job, make_request, settings

if TYPE_CHECKING:
    import torch

    from runtime.lane.renderer import Catalog

pytestmark = pytest.mark.torch

_ROOM = 1024**3


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny components lie; tests that change files copy them."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    for model in ("anisora", "phr00t"):
        load(_catalog(model), model, settings(folder)).release()
    return folder


def _catalog(model: str) -> Catalog:
    from lane_anisora.pipeline import catalog as anisora
    from lane_phr00t.pipeline import catalog as phr00t

    return {"anisora": anisora, "phr00t": phr00t}[model]


def _copied(models_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models_dir, tmp_path / "models"))


def _file(models_dir: Path, model: str, part: str) -> Path:
    (found,) = (models_dir / f"{model}-tiny-v1" / part).glob("*.safetensors")
    return found


def _changed(file: Path, change: Any) -> None:
    from safetensors.torch import load_file, save_file

    tensors = change(load_file(file))
    # Beside it: what was loaded may be mapped from the file.
    new = file.with_name("new")
    save_file(tensors, new, metadata={"format": "pt"})
    new.replace(file)


# 1: single files in fp8 are cast up while they are loaded, and the scales of scaled fp8 are ignored with a warning.


def test_weights_stay_in_8_bits_when_they_are_stored_so(models_dir: Path, tmp_path: Path) -> None:
    import torch

    folder = _copied(models_dir, tmp_path)
    file = _file(folder, "phr00t", "transformer")
    narrow = {"blocks.0.ffn.net.0.proj.weight", "blocks.1.attn1.to_q.weight"}
    _changed(file, lambda tensors: {name: value.to(torch.float8_e4m3fn) if name in narrow else value for name, value in tensors.items()})
    pipeline = load(_catalog("phr00t"), "phr00t", settings(folder))
    parameters = dict(inner(pipeline).transformer.named_parameters())
    assert {name for name, tensor in parameters.items() if tensor.dtype is torch.float8_e4m3fn} == narrow
    frames = pipeline.render(make_job(make_request("phr00t")))
    assert frames.std() > 1, "and it renders with them"


def test_load_is_refused_when_fp8_weights_come_with_scales_that_nobody_applies(models_dir: Path, tmp_path: Path) -> None:
    import torch

    from runtime.lane.wan.headers import WeightsError

    folder = _copied(models_dir, tmp_path)
    scale = "blocks.0.attn1.to_q.scale_weight"
    _changed(_file(folder, "phr00t", "transformer"), lambda tensors: {**tensors, scale: torch.tensor([2.0])})
    with pytest.raises(WeightsError, match=scale):
        _catalog("phr00t").read("phr00t", settings(folder), ignore_stage)


# 2: of a file that holds a whole model a part is loaded, and what does not belong to it is warned of.


@pytest.mark.parametrize("change", ["foreign", "missing", "misshaped"])
def test_load_is_refused_when_a_file_holds_something_else(models_dir: Path, tmp_path: Path, change: str) -> None:
    import torch

    from runtime.lane.wan.headers import WeightsError

    folder = _copied(models_dir, tmp_path)
    name = "blocks.0.attn1.to_q.weight"
    changes = {
        "foreign": lambda tensors: {**tensors, "vae.decoder.conv_in.weight": torch.zeros(2)},
        "missing": lambda tensors: {key: value for key, value in tensors.items() if key != name},
        "misshaped": lambda tensors: {**tensors, name: torch.zeros(3, 5)},
    }
    _changed(_file(folder, "phr00t", "transformer"), changes[change])
    with pytest.raises(WeightsError, match="vae.decoder.conv_in.weight" if change == "foreign" else name):
        _catalog("phr00t").read("phr00t", settings(folder), ignore_stage)


# 3: offloading to disk names files by layer only, so a second network reads the first one's weights.


@pytest.mark.parametrize("is_host_poor", [False, True])
def test_each_expert_has_its_own_weights_when_both_are_brought_in_or_mapped(models_dir: Path, is_host_poor: bool) -> None:
    import torch
    from safetensors.torch import load_file

    pipeline = load(_catalog("anisora"), "anisora", settings(models_dir, is_host_poor=is_host_poor))
    name = "blocks.0.attn1.to_q.weight"
    for part in ("transformer", "transformer_2"):
        stored = load_file(_file(models_dir, "anisora", part))[name]
        assert torch.equal(dict(getattr(inner(pipeline), part).named_parameters())[name], stored), part


# 4: `from_pipe` casts the networks that two pipelines share.


def test_types_stay_when_the_same_weights_are_assembled_again(models_dir: Path) -> None:
    catalog, load_settings = _catalog("phr00t"), settings(models_dir)
    weights = catalog.read("phr00t", load_settings, ignore_stage)
    first = catalog.assemble("phr00t", weights, load_settings, ignore_stage)
    before = _dtypes(inner(first))
    frames = first.render(make_job(make_request("phr00t")))
    first.release()
    second = catalog.assemble("phr00t", weights, load_settings, ignore_stage)
    assert _dtypes(inner(second)) == before
    assert (second.render(make_job(make_request("phr00t"))) == frames).all()


def _dtypes(pipe: Any) -> dict[str, torch.dtype]:
    parts = {"text_encoder": pipe.text_encoder, "vae": pipe.vae, "transformer": pipe.transformer}
    return {f"{part}.{name}": tensor.dtype for part, module in parts.items() for name, tensor in module.named_parameters()}


def test_shared_networks_keep_their_types_when_two_pipelines_have_them(models_dir: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from lane_anisora.tiny import build_text_to_video_pair

    load(_catalog("anisora"), "anisora", settings(models_dir))  # makes the parts where they are missing
    folder = shutil.copytree(models_dir / "anisora-tiny-v1", tmp_path / "anisora")
    build_text_to_video_pair(folder)
    for file in folder.rglob("*.safetensors"):
        save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}, file)
    write_manifest(folder, "anisora")
    pipeline = load(_catalog("anisora"), "anisora", settings(tmp_path, "a10g"))
    main, text_to_video = inner(pipeline), vars(pipeline)["_text_to_video"]
    assert main.vae is text_to_video.vae
    assert main.text_encoder is text_to_video.text_encoder
    for pipe in (main, text_to_video):
        assert set(_dtypes(pipe).values()) == {torch.bfloat16}


# 5: an exception or a cancel in the denoising loop leaves the transformer on the GPU, and an interrupt still decodes.


@pytest.mark.parametrize(
    ("model", "placement"),
    crossed(
        ("anisora", "phr00t"),
        [placement.name for placement in PLACEMENTS],
        short=lambda model, placement: placement == {"anisora": "streamed", "phr00t": "resident"}[model],
    ),
)
def test_nothing_stays_on_the_device_and_nothing_is_decoded_when_denoising_raises(models_dir: Path, model: str, placement: str) -> None:
    memory = BudgetMemory(_ROOM)
    pipeline = load(_catalog(model), model, settings(models_dir, memory=memory))
    pipeline.render(make_job(make_request(model), placement=placement))
    memory.cleanup()
    before = memory.live_bytes()
    phases: list[MemoryPhase] = []

    def cancel(step: int, _steps: int) -> None:
        if step == 2:
            raise RenderCancelled

    with pytest.raises(RenderCancelled):
        pipeline.render(make_job(make_request(model), cancel, placement=placement, on_phase=phases.append))
    memory.cleanup()
    assert memory.live_bytes() == before
    assert placement == "resident_all" or before == 0
    assert phases[-1] is MemoryPhase.DENOISE


# 6: a pipeline that has run lives on in cycles and in exceptions.


@pytest.mark.parametrize("placement", ["resident_all", "resident", "streamed_chunked"])
def test_everything_goes_when_a_pipeline_that_failed_is_released_beside_its_exception(models_dir: Path, placement: str) -> None:
    memory = BudgetMemory(_ROOM)
    pipeline = load(_catalog("anisora"), "anisora", settings(models_dir, memory=memory))
    watches = [weakref.ref(inner(pipeline)), weakref.ref(inner(pipeline).transformer)]

    def fail(_step: int, _steps: int) -> None:
        msg = "on purpose"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="on purpose") as kept:
        pipeline.render(make_job(make_request("anisora"), fail, placement=placement))
    pipeline.release()
    del pipeline
    gc.collect()
    assert [watch() for watch in watches] == [None, None]
    assert memory.live_bytes() == 0
    assert kept.value.args == ("on purpose",)


# 7: every pinned block is rounded up to a power of two.


def test_little_is_lost_to_rounding_when_wan_blocks_are_pinned() -> None:
    from runtime.fit.traced import TRACED
    from runtime.lane.memory.slabs import pinned_bytes

    for storage in ("fp8", "bf16"):
        parts = TRACED["anisora"].parts[storage].parts
        blocks = [size for part in parts if part.name.startswith("transformer") for size in part.block_bytes]
        assert len(blocks) == 80
        one_by_one = sum(1 << (size - 1).bit_length() for size in blocks)
        assert one_by_one > 1.4 * sum(blocks), "what torch would do with a block each"
        assert pinned_bytes(blocks) < 1.04 * sum(blocks)


# 8: making an empty network changes a method of all networks of the process meanwhile.


def test_networks_of_other_threads_keep_their_weights_when_an_empty_one_is_made(monkeypatch: pytest.MonkeyPatch, models_dir: Path) -> None:
    import torch
    from diffusers import WanVACETransformer3DModel

    from runtime.lane.wan.skeleton import make_diffusers_part

    made: list[torch.nn.Linear] = []
    real = WanVACETransformer3DModel.__init__

    def beside(self: Any, *arguments: Any, **named: Any) -> None:
        other = threading.Thread(target=lambda: made.append(torch.nn.Linear(2, 2)))
        other.start()
        other.join(10)
        real(self, *arguments, **named)

    monkeypatch.setattr(WanVACETransformer3DModel, "__init__", beside)
    skeleton = make_diffusers_part(WanVACETransformer3DModel, models_dir / "phr00t-tiny-v1" / "transformer")
    assert next(skeleton.parameters()).is_meta
    assert [network.weight.device.type for network in made] == ["cpu"]
