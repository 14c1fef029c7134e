"""Which attention backend takes a call: what `auto` trusts, what can be forced, and why others cannot run."""

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from titanlab.architectures.attention import flash, flash_kernels
from titanlab.architectures.attention.backend import Call, Causal, Pattern, Prefix, SlidingWindow
from titanlab.architectures.attention.flash import FlashBackend
from titanlab.architectures.attention.flash_kernels import FlashAttention2, FlashAttention4, kernel_for
from titanlab.architectures.attention.sdpa import SdpaBackend
from titanlab.architectures.attention.selection import select
from titanlab.platform.architecture import ARCHITECTURES
from titanlab.platform.errors import ConfigError
from titanlab.platform.model import ModelConfig, build_model
from titanlab.platform.recording import for_replay

ATTENDING = ("mac", "mag", "mal", "sliding_window", "transformer")
FLASH_ATTN_4, FLASH_ATTN_2 = "flash_attn.cute", "flash_attn"
HOPPER, BLACKWELL, AMPERE, TURING = (9, 0), (10, 0), (8, 0), (7, 5)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes a GPU and the packages installed on it; at first a Hopper GPU without any."""

    def installs(*packages: str, gpu: tuple[int, int] = HOPPER) -> None:
        def imported(name: str) -> ModuleType:
            if name not in packages:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            module = ModuleType(name)
            vars(module)["flash_attn_func"] = lambda: None
            return module

        kernel_for.cache_clear()
        monkeypatch.setattr(flash_kernels, "import_module", imported)
        monkeypatch.setattr(flash, "capability", lambda device: gpu)

    installs()
    yield installs
    kernel_for.cache_clear()


def on_gpu(
    pattern: Pattern,
    prefix: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    dim: int = 64,
    time: int = 512,
    past: int = 0,
) -> Call:
    """A call whose queries say that they are on a GPU."""
    keys = torch.empty(2, 3, (past + time) * pattern.keys_per_token, dim, device="meta")
    queries: Any = SimpleNamespace(
        is_cuda=True, dtype=dtype, shape=torch.Size((2, 3, time, dim)), device="cuda", requires_grad=True
    )
    always = keys[:, :, :prefix]
    return Call(queries, keys, keys, pattern, 1.0, Prefix(queries, always, always) if prefix else None)


@pytest.mark.parametrize(
    "call",
    [
        on_gpu(Causal()),
        on_gpu(Causal(), time=8192),
        on_gpu(Causal(), dim=32),
        on_gpu(Causal(), dim=128),
        on_gpu(Causal(), dim=96),
        on_gpu(Causal(), dtype=torch.float16),
        on_gpu(SlidingWindow(100)),
        on_gpu(SlidingWindow(100), prefix=16),
    ],
)
def test_auto_takes_flash_attn_where_it_was_checked(install, call: Call) -> None:
    install(FLASH_ATTN_4)
    assert isinstance(select("auto", call), FlashBackend)


@pytest.mark.parametrize(
    "call",
    [
        on_gpu(Causal(keys_per_token=2)),
        on_gpu(Causal(keys_per_token=2), prefix=4),
        on_gpu(SlidingWindow(100), past=99),
        on_gpu(SlidingWindow(100), dim=256),
        on_gpu(SlidingWindow(100), dim=96),
        on_gpu(Causal(), dim=128, dtype=torch.float16),
        on_gpu(Causal(), prefix=16),
        on_gpu(Causal(), dim=72),
        on_gpu(Causal(), dim=256),
        on_gpu(Causal(), past=1),
        on_gpu(Causal(), time=511),
    ],
)
def test_auto_leaves_to_torch_what_was_not_checked_but_it_can_be_forced(install, call: Call) -> None:
    install(FLASH_ATTN_4)
    assert isinstance(select("auto", call), SdpaBackend)
    assert isinstance(select("flash", call), FlashBackend)


@pytest.mark.parametrize("prefix", [0, 16])
def test_auto_takes_flash_attn_for_mac_where_steps_are_recorded(install, prefix: int) -> None:
    install(FLASH_ATTN_4)
    two, three = on_gpu(Causal(keys_per_token=2), prefix), on_gpu(Causal(keys_per_token=3), prefix)
    with for_replay():
        assert isinstance(select("auto", two), FlashBackend) and isinstance(select("auto", three), SdpaBackend)
        assert isinstance(select("auto", on_gpu(Causal(keys_per_token=2), prefix, dim=96)), SdpaBackend)
    assert isinstance(select("auto", two), SdpaBackend)


@pytest.mark.parametrize(
    ("package", "gpu"), [(FLASH_ATTN_4, BLACKWELL), (FLASH_ATTN_2, HOPPER), (FLASH_ATTN_2, AMPERE)]
)
def test_auto_trusts_neither_another_gpu_nor_flash_attn_2(install, package: str, gpu: tuple[int, int]) -> None:
    install(package, gpu=gpu)
    assert isinstance(select("auto", on_gpu(Causal())), SdpaBackend)
    assert isinstance(select("flash", on_gpu(Causal())), FlashBackend)


def test_auto_takes_torch_where_sums_must_have_a_fixed_order(install) -> None:
    install(FLASH_ATTN_4)
    torch.use_deterministic_algorithms(True)
    try:
        assert isinstance(select("auto", on_gpu(Causal())), SdpaBackend)
    finally:
        torch.use_deterministic_algorithms(False)


def test_auto_takes_torch_on_a_cpu_and_where_flash_attn_is_not_installed(install) -> None:
    q = torch.empty(1, 1, 512, 64, dtype=torch.bfloat16)
    assert isinstance(select("auto", Call(q, q, q, Causal(), 1.0)), SdpaBackend)
    assert isinstance(select("auto", on_gpu(Causal())), SdpaBackend)


def test_the_newer_flash_attn_is_taken_where_the_gpu_allows_it(install) -> None:
    install(FLASH_ATTN_2, FLASH_ATTN_4)
    assert isinstance(kernel_for(HOPPER), FlashAttention4) and isinstance(kernel_for(AMPERE), FlashAttention2)


@pytest.mark.parametrize(
    ("call", "gpu", "reason"),
    [
        (on_gpu(Causal(), dtype=torch.float32), HOPPER, "bfloat16 and float16, not torch.float32; set train.precision"),
        (on_gpu(Causal(), dim=20), HOPPER, "heads of a multiple of 8 up to 256 here, not of 20"),
        (on_gpu(Causal(), dim=264), HOPPER, "heads of a multiple of 8 up to 256 here, not of 264"),
        (on_gpu(Causal(), dim=136), BLACKWELL, "heads of a multiple of 8 up to 128 here, not of 136"),
        (on_gpu(Causal()), HOPPER, "flash-attn is not installed; to install it: pip install 'flash-attn-4"),
        (on_gpu(Causal()), AMPERE, "flash-attn is not installed; to install it: pip install flash-attn "),
        (on_gpu(Causal()), TURING, "8.0 .Ampere. or more, this one has 7.5"),
    ],
)
def test_flash_says_why_it_cannot_run_and_what_to_do(install, call: Call, gpu: tuple[int, int], reason: str) -> None:
    install(gpu=gpu)
    with pytest.raises(ConfigError, match=reason):
        select("flash", call)


def test_flash_attn_2_declines_to_train_what_its_backward_pass_would_get_wrong(install) -> None:
    install(FLASH_ATTN_2)
    for call in (on_gpu(SlidingWindow(4), prefix=2), on_gpu(Causal(2))):
        assert "flash-attn 2 cannot be trained with persistent tokens" in FlashBackend().obstacle(call)
        with torch.no_grad():
            assert not FlashBackend().obstacle(call)
    assert not FlashBackend().obstacle(on_gpu(SlidingWindow(4)))


def test_persistent_tokens_alone_may_be_what_is_trained() -> None:
    frozen, learned = torch.empty(1, 1, 3, 8), torch.empty(1, 1, 2, 8, requires_grad=True)
    call = Call(frozen, frozen, frozen, SlidingWindow(2), 1.0, Prefix(frozen, learned, learned))
    assert call.needs_gradients and not Call(frozen, frozen, frozen, SlidingWindow(2), 1.0).needs_gradients


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            ModuleNotFoundError("No module named 'cutlass'", name="cutlass"),
            "flash-attn-4 is installed, but needs cutlass, which is not",
        ),
        (OSError("libcute.so: no such file"), r"does not import (OSError: libcute.so: no such file)"),
    ],
)
def test_a_broken_flash_attn_says_what_it_lacks(
    install, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def broken(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(flash_kernels, "import_module", broken)
    assert reason in str(kernel_for(HOPPER))


def test_flash_attn_4_alone_leaves_an_empty_package_that_is_no_flash_attn_2(
    install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_kernels, "import_module", ModuleType)
    assert "flash-attn is not installed" in str(kernel_for(AMPERE))


@pytest.mark.parametrize("architecture", ATTENDING)
@pytest.mark.parametrize("attention", ["flash", "flex"])
def test_every_architecture_that_attends_hands_its_setting_on(architecture: str, attention: str) -> None:
    model = build_model({"layers": 1, "architecture": {"type": architecture, "attention": attention}}, 11)
    reason = f"architecture.attention: {attention} cannot run here: .* needs a CUDA device, and the tensors are on cpu"
    with pytest.raises(ConfigError, match=reason):
        model(torch.zeros(1, 5, dtype=torch.long))


def test_all_architectures_that_attend_are_meant_here() -> None:
    assert {name for name in ARCHITECTURES if "heads" in ARCHITECTURES[name].model_fields} == set(ATTENDING)


def test_the_backend_is_no_part_of_what_a_run_is() -> None:
    plain, forced = (
        ModelConfig.model_validate({"architecture": {"type": "mac", "attention": attention}})
        for attention in ("auto", "flash")
    )
    assert plain.identity() == forced.identity() and plain.settings() != forced.settings()
