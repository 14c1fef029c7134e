"""Which attention backend takes a call."""

from __future__ import annotations

from titanlab.architectures.attention.backend import AttentionBackend, AttentionName, Call
from titanlab.architectures.attention.flash import FlashBackend
from titanlab.architectures.attention.flex import FlexBackend
from titanlab.architectures.attention.sdpa import SdpaBackend
from titanlab.platform.errors import ConfigError, Problem

BACKENDS: dict[AttentionName, AttentionBackend] = {
    "flash": FlashBackend(),
    "flex": FlexBackend(),
    "sdpa": SdpaBackend(),
}
"""By the name that forces them; `auto` prefers the earlier, and the last one takes everything."""


def select(attention: AttentionName, call: Call) -> AttentionBackend:
    """The backend that the setting names, or of those that can take the call the first that is preferred for it.

    Raises:
        ConfigError: the backend that is named cannot take the call; it says why, and what to do.
    """
    if attention == "auto":
        return next(b for b in BACKENDS.values() if b.is_preferred(call) and not b.obstacle(call))
    backend = BACKENDS[attention]
    if obstacle := backend.obstacle(call):
        message = f"{attention} cannot run here: {obstacle}; auto takes what can"
        raise ConfigError(Problem(message, "model.architecture.attention"))
    return backend
