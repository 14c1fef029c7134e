"""Text as token ids: a byte is its own id."""

BYTES = 256
"""Number of ids."""
START = 0
"""The id before the first byte of a document or row, and of padding: the byte NUL, which no text holds."""
