"""The inner models that come with titanlab, one a file; each registers itself."""
