"""What is made of weights alone is made once for all pieces of a row."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from titanlab.memory_modules import gates, layer
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.made_once import for_all_pieces, made_once
from titanlab.platform.memory import MEMORY_MODULES


def test_it_is_made_anew_for_other_weights_other_conditions_and_outside() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    a, b = torch.zeros(1), torch.zeros(1)
    assert [made_once(make, [a]), made_once(make, [a])] == [0, 1]
    with for_all_pieces():
        assert [made_once(make, [a]), made_once(make, [a])] == [2, 2]
        assert [made_once(make, [b]), made_once(make, [a], 1)] == [3, 4]
        with torch.no_grad():  # what has no gradient is none for a call that wants one
            assert made_once(make, [a]) == 5
        with for_all_pieces():
            assert made_once(make, [a]) == 2
        assert made_once(make, [a]) == 2
    assert made_once(make, [a]) == 6


def test_a_tensor_that_is_gone_is_not_taken_for_another() -> None:
    with for_all_pieces():
        for number in range(100):  # without what keeps them, some would stand at the same place
            weight = torch.full((1,), float(number))
            assert made_once(lambda weight=weight: weight.item(), [weight]) == number


def test_the_segments_of_mac_share_their_gates_weights_and_the_gradient_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    memory = MEMORY_MODULES.resolve({"type": "titans", "heads": 2, "chunk_size": 4})
    block = ARCHITECTURES.resolve({"type": "mac", "heads": 2, "segment": 8}).build(16, memory).double()
    x = torch.randn(2, 32, 16, dtype=torch.float64)

    def gradients() -> list[Tensor]:
        y, _ = block(x, block.initial_state(2))
        return list(torch.autograd.grad(y.square().sum(), list(block.parameters())))

    joined, cat = [], torch.cat

    def counted(tensors, *rest):
        joined.append(any(tensor is block.memory.keep.weight for tensor in tensors))
        return cat(tensors, *rest)

    monkeypatch.setattr(torch, "cat", counted)
    shared, once = gradients(), sum(joined)
    monkeypatch.setattr(gates, "made_once", lambda make, weights, *conditions: make())
    joined.clear()
    apart = gradients()
    assert (once, sum(joined)) == (1, 4)  # segments
    for one, other in zip(shared, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_an_answer_that_is_seen_through_a_projection_may_be_composed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    memory = MEMORY_MODULES.resolve({"type": "titans", "heads": 2, "chunk_size": 4})
    block = ARCHITECTURES.resolve({"type": "mac", "heads": 2, "segment": 8}).build(16, memory).double()
    x, products = torch.randn(2, 32, 16, dtype=torch.float64), []
    made = layer.made_once

    def once(make: Callable[[], Tensor], weights: Sequence[Tensor], *conditions: object) -> Tensor:
        return made(lambda: products.append(len(weights)) or make(), weights, *conditions)

    monkeypatch.setattr(layer, "made_once", once)
    found = []
    for worth in (False, True):
        monkeypatch.setattr(layer, "_is_worth_composing", lambda *args, worth=worth: worth)
        y, _ = block(x, block.initial_state(2))
        found.append([y, *torch.autograd.grad(y.square().sum(), list(block.parameters()))])
    assert products == [2]  # once for four segments
    for composed, plain in zip(*found, strict=True):
        torch.testing.assert_close(composed, plain, rtol=1e-9, atol=1e-12)


def test_a_composed_answer_is_for_many_tokens_and_plain_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "kernels_take", lambda *tensors: True)
    few, many, weight = torch.zeros(1, 31, 16), torch.zeros(2, 16, 16), torch.zeros(32, 16)
    plain = torch.nn.Linear(16, 16, bias=False)
    assert layer._is_worth_composing(many, weight, plain) and not layer._is_worth_composing(few, weight, plain)
    assert not layer._is_worth_composing(many, weight, torch.nn.Sequential(plain))
    assert not layer._is_worth_composing(many, weight, torch.nn.Linear(16, 16))
    plain.register_forward_hook(lambda *call: None)
    assert not layer._is_worth_composing(many, weight, plain)


def test_a_memory_with_an_answer_of_its_own_is_asked_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "_is_worth_composing", lambda *given: True)
    memory = MEMORY_MODULES.resolve({"type": "titans", "heads": 2, "chunk_size": 4}).build(16)

    class Doubled(type(memory)):  # type: ignore[misc]
        def answer(self, question: object, state: object) -> Tensor:
            return 2 * super().answer(question, state)

    x, weight, state = torch.randn(1, 8, 16), torch.randn(5, 16), memory.initial_state(1)
    plain = memory.projected_answer(memory.question(x), state, weight)
    memory.__class__ = Doubled
    torch.testing.assert_close(memory.projected_answer(memory.question(x), state, weight), 2 * plain)
