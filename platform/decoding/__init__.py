"""Token after token through a state, on a GPU by recorded CUDA graphs."""
