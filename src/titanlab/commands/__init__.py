"""The verbs of the command line, one a file; nothing heavy is imported before a verb needs it."""
