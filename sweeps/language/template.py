"""The commented sweep that `titanlab new sweep NAME` writes: it runs as it is, and every option waits behind a `#`."""

from __future__ import annotations

import json


def sweep_template(name: str) -> str:
    """A sweep file; a line that starts with `#` and no space is an option, which works once the `#` is taken away."""
    return _TEMPLATE.replace("NAME", json.dumps(name), 1)


_TEMPLATE = """\
# For completion and checks in an editor: `titanlab sweep schema > sweep.schema.json`, then as the first line here
# `yaml-language-server: $schema=sweep.schema.json` behind a '#'. Names and settings: `titanlab list`.
schema_version: 1
name: NAME
# Take over another file; what stands here goes over it. A list of files works too.
#extends: []

# One complete run, as `titanlab train` takes it. What is left out has its default.
base:
  model:
    dim: 32
    layers: 2
    architecture: {type: lmm}
    memory: {type: titans, depth: 1, momentum: token, keep: token, heads: 2, chunk_size: 16}
  task: {type: mqar, vocab: 32, pairs: 4, length: 32}
  train: {steps: 200, batch_size: 16, learning_rate: 5.0e-3}  # or tokens, flops, seconds instead of steps

# Dotted key -> values; every combination is a cell.
axes:
  model.memory.depth: [1, 2]
  model.memory.momentum: [none, token]
#  model.memory.expansion: [1, 2]

# Keys that vary together: the first values, then the second ones. Crossed with the axes.
#paired:
#  - {model.dim: [32, 64], model.memory.heads: [2, 4]}

# An axis that varies only where a condition holds; elsewhere its setting is as in the base.
#when:
#  model.memory.expansion: model.memory.depth > 1

# Cells that are not run: == != < <= > >= in, and, or, not, parentheses.
#exclude:
#  - model.memory.depth == 2 and model.memory.momentum == none

# Around the baseline, beside the axes: each factor changed alone (one_at_a_time), all but one changed
# (leave_one_out), or both.
#ablate:
#  mode: one_at_a_time
#  model.memory.keep: [none]
#  model.memory.momentum: [none]

# Cells beside all that.
cells:
  - model.architecture: {type: transformer, heads: 2}

# A number, or a list such as [0, 1, 2]. Every cell runs with the same seeds, so differences are taken seed by seed.
seeds: 2

# Every cell brought to equal `parameters`, `state` or `flops` by one width: to a number, or to the baseline's own.
#match: {on: parameters, vary: model.expansion, to: 150000, tolerance: 0.02}

# Settings of training chosen for every cell, with the same effort, before the comparison and without its test split.
#tune:
#  train.learning_rate: {low: 1.0e-3, high: 1.0e-1}
#  train.weight_decay: {choices: [0.0, 0.1]}
#  trials: 8

# What the report compares every cell to. Without `ablate` it names one planned cell; `ablate` varies it.
#baseline: {model.memory.depth: 1, model.memory.momentum: none}
# The first metric of the task by default; `cost/...` and `val/...` work too.
#objective: {metric: final/accuracy, direction: max}
# Of one trial; a fraction of a GPU shares it.
#resources: {cpu: 1, gpu: 0, retries: 2, failure_retries: 0}
"""
