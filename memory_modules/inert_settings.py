"""Settings of a gradient memory that do nothing beside its other settings, so that no sweep compares equal cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from titanlab.memory_modules.gradient_form import Form
    from titanlab.memory_modules.gradient_memory import GradientMemoryConfig

WRITING = ("keep", "momentum", "step", "keep_start", "momentum_start", "step_base", "gates", "gate_rank", "objective",
           "p", "threshold_start", "optimizer", "gradient_at", "window")  # fmt: skip
"""What only a memory that is written looks at."""


def inert_settings(config: GradientMemoryConfig, form: Form | None) -> dict[str, str]:
    """Of the settings that differ from their defaults, those without effect, each with the reason."""
    reasons = dict.fromkeys(WRITING, "control is frozen") if config.control == "frozen" else _reasons(config)
    if form is not None and form.structure.matrices == 1:
        reasons |= dict.fromkeys(("expansion", "activation"), "the memory is one matrix")
        if config.control == "last_matrix":
            reasons["control"] = "the memory is one matrix"
    if form is not None and config.optimizer == "muon" and form.muon_step == "inside":
        reasons["step_base"] = "Muon looks at the proportions of steps alone"
    chosen = config.identity()
    return {name: reason for name, reason in reasons.items() if name in chosen}


def _reasons(config: GradientMemoryConfig) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if config.optimizer == "gradient":
        reasons |= dict.fromkeys(("momentum", "momentum_start"), "optimizer is gradient")
    elif config.momentum == "none":
        reasons["momentum_start"] = "momentum is none"
    if config.keep == "none":
        reasons["keep_start"] = "keep is none"
        if config.gradient_at == "decayed":
            reasons["gradient_at"] = "keep is none"
    if config.gates == "head":
        reasons["gate_rank"] = "gates is head"
    if config.objective != "lp":
        reasons["p"] = f"objective is {config.objective}"
    if config.objective != "huber":
        reasons["threshold_start"] = f"objective is {config.objective}"
    return reasons


def remark_on(kind: str, inert: dict[str, str]) -> str | None:
    """One sentence for whoever plans a sweep."""
    if not inert:
        return None
    listed = ", ".join(f"{name} ({reason})" for name, reason in inert.items())
    return f"of memory '{kind}' these settings do nothing beside the others: {listed}"
