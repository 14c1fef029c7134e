"""`atlas`: ATLAS, OmegaNet with Muon."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from titanlab.memory_modules.omega_net import OmegaNetConfig
from titanlab.platform.memory import MEMORY_MODULES


@MEMORY_MODULES.register("atlas")
class AtlasConfig(OmegaNetConfig):
    """ATLAS: S = momentum S - windowed gradient, M = keep M + step NewtonSchulz(S) (2505.23735, eq. 32-33).

    Muon moves the memory at a chunk's last token, the paper's at every one; the same at chunk_size 1.
    """

    optimizer: Literal["momentum", "gradient", "muon"] = "muon"
    """How gradients are applied: by Muon, alone, or with momentum as `momentum` says; see `titans`."""
    chunk_size: int = Field(8, ge=1, le=4096)
    """Tokens computed together; with Muon the memory moves once a chunk."""
