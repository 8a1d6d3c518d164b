"""The account counts what tensors are alive, at most, and within its limit."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from runtime.lane.memory.account import TensorAccount

pytestmark = pytest.mark.torch

_KIB = 1024


def _kib(count: int) -> torch.Tensor:
    return torch.zeros(count * _KIB, dtype=torch.uint8)


def test_bytes_count_until_the_last_tensor_is_gone_when_views_share_a_storage() -> None:
    account = TensorAccount()
    with account:
        whole = _kib(4)
        view = whole[:_KIB].view(32, 32)
    assert account.live_bytes == 4 * _KIB
    del whole
    assert account.live_bytes == 4 * _KIB
    del view
    assert account.live_bytes == 0


def test_nothing_is_counted_when_work_is_done_in_place() -> None:
    account = TensorAccount()
    with account:
        tensor = _kib(4)
        account.reset_peak()
        tensor.add_(1).mul_(2)
        tensor[:7].copy_(torch.full((7,), 3, dtype=torch.uint8))
    assert account.peak_bytes == 4 * _KIB + 7
    assert account.live_bytes == 4 * _KIB


def test_views_are_free_when_their_storage_was_made_elsewhere() -> None:
    account = TensorAccount()
    weights = torch.ones(16, 16)
    with account:
        views = [weights.t(), weights[2:], weights.view(256), torch.ops.aten._unsafe_view(weights, [256]), weights.detach()]
        weights.add_(1)
        taken = torch.empty(0)
        taken.set_(weights)  # type: ignore[call-overload]  # it takes tensors, too
        other = torch.empty(0)
        other.set_(weights.untyped_storage())
        assert len(views) == 5
    assert account.live_bytes == 0


def test_a_tensor_from_python_numbers_counts_when_it_is_made_within() -> None:
    account = TensorAccount()
    with account:
        numbers = torch.tensor([1.0, 2.0])
    assert account.live_bytes == numbers.nbytes


def test_growth_counts_when_a_tensor_is_resized() -> None:
    account = TensorAccount()
    with account:
        tensor = torch.empty(0, dtype=torch.uint8)
        tensor.resize_(3 * _KIB)
    assert account.live_bytes == 3 * _KIB
    del tensor
    assert account.live_bytes == 0


def test_an_operation_is_refused_when_its_result_goes_over_the_limit() -> None:
    account = TensorAccount(limit_bytes=10 * _KIB)
    with account:
        first = _kib(6)
        with pytest.raises(torch.OutOfMemoryError, match=rf"Tried to allocate .* {5 * _KIB} asked, {6 * _KIB} of {10 * _KIB} in use"):
            _kib(5)
        assert account.live_bytes == 6 * _KIB
        second = _kib(4)  # to the last byte
    assert account.peak_bytes == account.live_bytes == 10 * _KIB
    del first, second
    assert account.live_bytes == 0


def test_a_refused_result_is_gone_when_the_exception_is_kept() -> None:
    account = TensorAccount(limit_bytes=10 * _KIB)
    with account:
        inputs = _kib(8)
        watched = weakref.ref(inputs)
        try:
            inputs + inputs
        except torch.OutOfMemoryError as error:
            kept = error
        del inputs
    gc.collect()
    assert kept.__traceback__ is not None
    assert watched() is None
    assert account.live_bytes == 0


def test_the_parts_of_an_operation_count_when_inference_mode_hands_it_over_whole() -> None:
    states, weight = torch.ones(4, 64), torch.ones(64)
    plain, inference = TensorAccount(), TensorAccount()
    with torch.no_grad(), plain:
        torch.rms_norm(states, (64,), weight)
    with torch.inference_mode(), inference:
        torch.rms_norm(states, (64,), weight)
    assert inference.peak_bytes == plain.peak_bytes > states.nbytes


def test_results_are_the_same_when_an_operation_is_counted() -> None:
    torch.manual_seed(0)
    layer, states = torch.nn.Linear(32, 32), torch.randn(2, 8, 32)

    def compute() -> torch.Tensor:
        hidden = torch.nn.functional.gelu(layer(states), approximate="tanh")
        attended = torch.nn.functional.scaled_dot_product_attention(hidden, hidden, hidden)
        image = torch.nn.functional.interpolate(attended[None], scale_factor=2.0, mode="nearest-exact")
        result: torch.Tensor = torch.nn.functional.layer_norm(image, (64,))
        return result

    with torch.inference_mode():
        expected = compute()
        with TensorAccount():
            assert torch.equal(compute(), expected)


def test_nothing_counts_when_it_is_made_while_ignoring() -> None:
    account = TensorAccount(limit_bytes=_KIB)
    with account:
        with account.ignoring():
            host = _kib(100)
        assert host.numel() == 100 * _KIB
        assert account.live_bytes == 0
        with pytest.raises(torch.OutOfMemoryError):
            _kib(2)


def test_the_peak_starts_from_what_is_alive_when_it_is_reset() -> None:
    account = TensorAccount()
    with account:
        kept, dropped = _kib(2), _kib(5)
        del dropped
    assert account.peak_bytes == 7 * _KIB
    account.reset_peak()
    assert account.peak_bytes == kept.nbytes


def test_the_figures_are_those_of_real_tensors_when_tensors_are_fake_or_meta() -> None:
    def work(device: str) -> None:
        states = torch.empty(64, 64, device=device)
        torch.nn.functional.softmax(states @ states, dim=-1).sum()

    real, fake, meta = TensorAccount(), TensorAccount(), TensorAccount(counts_meta=True)
    with torch.no_grad():
        with real:
            work("cpu")
        with FakeTensorMode(), fake:
            work("cpu")
        with meta:
            work("meta")
    assert real.peak_bytes == fake.peak_bytes == meta.peak_bytes


def test_meta_tensors_are_free_when_nothing_else_is_said() -> None:
    account = TensorAccount(limit_bytes=_KIB)
    with account:
        skeleton = torch.empty(100, 100, device="meta")
    assert account.live_bytes == 0
    assert skeleton.is_meta
