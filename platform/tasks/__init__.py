"""Tasks, one a file; each registers its configuration."""
