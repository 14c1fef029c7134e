"""The rules as functions, one a file; `titanlab.memory_modules.functional` has them all."""
