"""Memory rules, one a file; each registers its configuration under the name it has in YAML."""
