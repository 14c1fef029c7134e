"""The sweep language, its plan, its run and its report, and the sweeps that come with titanlab (*.yaml)."""
