"""One chunk of a learned memory, or a part of one: from a state and the tokens' rates to answers and the next state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from titanlab.memory_modules.kernels.factored_chunks import (
    Coefficients,
    Factors,
    coefficients,
    factored_gradients,
    window_shares,
)
from titanlab.memory_modules.parts.optimizer import newton_schulz
from titanlab.memory_modules.parts.structure import Linear
from titanlab.memory_modules.rules.learned_state import LearnedRule, LearnedState, Past, Rate, Rates


class ChunkTokens(NamedTuple):
    """A chunk's share of a call's arguments, heads before time; rates for each matrix [b, h, c, o]."""

    q: Tensor
    k: Tensor
    v: Tensor
    step: list[Tensor]
    keep: list[Tensor] | None
    momentum: list[Tensor] | None
    threshold: Tensor | None
    share: Tensor | None

    @staticmethod
    def cut(q: Tensor, k: Tensor, v: Tensor, rates: Rates, part: slice, dtype: torch.dtype) -> ChunkTokens:
        def gate(rate: Tensor) -> Tensor:
            values = rate[:, part].movedim(2, 1).to(dtype)  # b h c (o)
            return values if rate.ndim == 4 else values.unsqueeze(-1)

        def of(rate: Rate | None) -> list[Tensor] | None:
            return None if rate is None else [gate(one) for one in (rate if isinstance(rate, tuple) else (rate,))]

        def scalar(rate: Tensor | None) -> Tensor | None:
            return None if rate is None else gate(rate).squeeze(-1)

        asked, keys, values = (x[:, part].movedim(2, 1).to(dtype) for x in (q, k, v))
        step, keep, momentum = of(rates.step) or [], of(rates.keep), of(rates.momentum)
        return ChunkTokens(asked, keys, values, step, keep, momentum, scalar(rates.threshold), scalar(rates.share))


class LearnedChunk:
    """The tokens of one chunk, or of a part of it, from a state to the next one."""

    def __init__(
        self, rule: LearnedRule, tokens: ChunkTokens, state: LearnedState, initial: Sequence[Tensor], ends: bool
    ) -> None:
        self.rule, self.tokens, self.state, self.initial = rule, tokens, state, initial
        self.ends = ends
        """Whether the last of the tokens is its chunk's last."""
        self.learned = [layer for layer in range(rule.structure.matrices) if rule.learns(layer)]

    def run(self) -> tuple[Tensor, LearnedState]:
        """y [b, h, c, d] and the state after the tokens."""
        rule, state = self.rule, self.state
        size = self.tokens.q.shape[2]
        seen = self._window()
        factors = self._factors(seen) if self.learned else Factors([], [])
        shares = None if rule.window == 1 and self.tokens.share is None else window_shares(seen.share, rule.window)
        gates = {layer: self._coefficients(layer, shares) for layer in self.learned}
        after = self._after(gates, factors)
        y = rule.structure(self.tokens.q, self._reader(gates, factors, after))
        count = rule.window - 1
        past = Past(*(x[:, :, x.shape[2] - count :] for x in seen))
        return y, after._replace(past=past, position=(state.position + size) * (0 if self.ends else 1))

    def _window(self) -> Past:
        """Keys, values, thresholds and shares of the chunk's tokens after those of the window before it."""
        tokens, past = self.tokens, self.state.past
        ones = torch.ones_like(tokens.v[..., 0])
        threshold = ones if tokens.threshold is None else tokens.threshold
        share = ones if tokens.share is None else tokens.share
        now = Past(tokens.k, tokens.v, threshold, share)
        if self.rule.window == 1:
            return now
        return Past(*(torch.cat([old, new], 2) for old, new in zip(past, now, strict=True)))

    def _factors(self, seen: Past) -> Factors:
        rule, state = self.rule, self.state
        reference = list(state.reference)
        if rule.control == "initial_gradients":
            first = (rule.retention.weights(matrix.unsqueeze(0), matrix) for matrix in self.initial)
            reference = [w.expand(len(seen.keys), *w.shape[1:]) for w in first]
        decayed = self._decayed() if state.decay else None
        return factored_gradients(
            rule.structure, rule.objective, seen.keys, seen.values, seen.threshold, reference, decayed
        )

    def _decayed(self) -> list[Tensor]:
        """Product of keep from the chunk's start to each token, a matrix each [b, h, c, o]."""
        matrices = range(self.rule.structure.matrices)
        if self.tokens.keep is None:
            return [self.state.decay[layer].expand(*self.tokens.q.shape[:3], -1) for layer in matrices]
        return [_for(layer, self.tokens.keep).cumprod(2) * self.state.decay[layer] for layer in matrices]

    def _coefficients(self, layer: int, shares: Tensor | None) -> Coefficients:
        tokens = self.tokens
        step, keep, momentum = _for(layer, tokens.step), tokens.keep, tokens.momentum
        step = -step if self.rule.control == "ascent" else step
        kept = None if keep is None else _for(layer, keep)
        carried = None if momentum is None else _for(layer, momentum)
        if self.rule.optimizer == "muon":  # S alone, which is to momentum what a memory is to keep
            kept, carried = carried, None
            step = step if self.rule.muon_step == "inside" else torch.ones_like(step[..., :1])
        width = max(gate.shape[-1] for gate in (step, kept, carried) if gate is not None)

        def wide(gate: Tensor | None) -> Tensor | None:
            return None if gate is None else gate.expand(*gate.shape[:-1], width)

        return coefficients(wide(kept), wide(carried), step.expand(*step.shape[:-1], width), shares)

    def _after(self, gates: dict[int, Coefficients], factors: Factors) -> LearnedState:
        """The state after the tokens, its window and position aside."""
        state, rule = self.state, self.rule
        stored, surprise, reference = list(state.stored), list(state.surprise), list(state.reference)
        for layer in self.learned:
            x, d = factors.inputs[layer], factors.errors[layer]
            if rule.optimizer == "muon":
                surprise[layer] = gates[layer].written(surprise[layer].unsqueeze(2), x, d)[:, :, 0]
                stored[layer] = self._kept(layer)[:, :, -1:] * stored[layer]
            else:
                after = gates[layer].written(self._parts(layer), x, d)
                stored[layer] = after[:, :, 0]
                if surprise:
                    surprise[layer] = after[:, :, 1]
            if self.ends:
                stored[layer], reference[layer] = self._finished(layer, stored[layer], surprise)
        decay: tuple[Tensor, ...] = ()
        if state.decay:
            ones = [torch.ones_like(old) for old in state.decay]
            decay = tuple(ones if self.ends else [product[:, :, -1:] for product in self._decayed()])
        scale = scales(rule, stored) if self.ends else state.scale
        return LearnedState(tuple(stored), tuple(surprise), tuple(reference), scale, decay, state.past, state.position)

    def _finished(self, layer: int, stored: Tensor, surprise: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What is not linear, at the chunk's last token: A and the weights from here on; Muon's S may begin anew."""
        rule = self.rule
        if rule.optimizer == "muon":
            moved = newton_schulz(surprise[layer])
            if rule.muon_step == "outside":
                step = _for(layer, self.tokens.step)[:, :, -1:]
                moved = moved * (-step if rule.control == "ascent" else step)
            stored = stored + moved
            if self.tokens.momentum is None:
                surprise[layer] = torch.zeros_like(surprise[layer])
        weights = rule.retention.weights(stored, self.initial[layer])
        return rule.retention.restored(stored, weights), weights

    def _parts(self, layer: int) -> Tensor:
        """Memory, and momentum if there is one, [b, h, p, in, out]."""
        families = (self.state.stored, self.state.surprise) if self.state.surprise else (self.state.stored,)
        return torch.stack([family[layer] for family in families], 2)

    def _kept(self, layer: int) -> Tensor:
        """Product of keep from these tokens' first to each, [b, h, c, o]."""
        if self.tokens.keep is None:
            return torch.ones_like(_for(layer, self.tokens.step)[..., :1])
        return _for(layer, self.tokens.keep).cumprod(2)

    def _reader(self, gates: dict[int, Coefficients], factors: Factors, after: LearnedState) -> Linear:
        """linear(l, x) for queries, each to the memory as it stands at its own token."""
        rule, state = self.rule, self.state
        moves_at_end = self.ends and (rule.optimizer == "muon" or not rule.retention.linear)

        def inside(layer: int, x: Tensor) -> Tensor:
            if rule.retention.held:
                return x @ state.reference[layer]
            if rule.optimizer == "muon":
                y = self._kept(layer)[:, :, : x.shape[2]] * (x @ state.stored[layer])
            else:
                y = gates[layer].answers(x, self._parts(layer), factors.inputs[layer], factors.errors[layer])
            return y * state.scale[layer] if state.scale else y

        def linear(layer: int, x: Tensor) -> Tensor:
            if not rule.learns(layer):
                return x @ state.reference[layer]
            if not moves_at_end:
                return inside(layer, x)
            return torch.cat([inside(layer, x)[:, :, :-1], x[:, :, -1:] @ after.reference[layer]], 2)

        return linear


def _for(layer: int, rates: list[Tensor]) -> Tensor:
    """A matrix's gate of those of all, or the one they share."""
    return rates[layer] if len(rates) > 1 else rates[0]


def scales(rule: LearnedRule, stored: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The factors between what is stored and the weights, for the chunk that begins; empty where there are none."""
    return tuple(scale for matrix in stored if (scale := rule.retention.scale(matrix)) is not None)
