"""A model over a stream of any length, in pieces and with constant memory."""
