"""Training one run: the loop, its schedule and its checkpoints."""
