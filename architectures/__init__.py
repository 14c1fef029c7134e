"""Ways to combine a memory with attention, one a file; each registers its configuration."""
