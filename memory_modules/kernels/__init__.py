"""How the rules are computed: chunk-parallel forms, each tested against the token-by-token reference."""
