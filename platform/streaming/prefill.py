"""Reading a prompt of any length, of which the last token's logits are all that is wanted."""

from __future__ import annotations

from torch import Tensor

from titanlab.platform.decoding.session import Session
from titanlab.platform.streaming.tokens import Tokens


def read_to(session: Session, tokens: Tokens, start: int, stop: int, piece: int) -> Tensor:
    """A session reads tokens number `start` .. `stop` - 1, at least one, at most `piece` in a call.

    Returns:
        the last logits [b, vocab].
    """
    for first in range(start, stop, piece):
        ids = tokens.between(first, min(first + piece, stop)).to(session.device)
        last = session.run(ids)[:, -1].clone()
    return last
