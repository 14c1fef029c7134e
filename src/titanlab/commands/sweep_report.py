"""To be written."""


def report() -> None:
    """To be written."""
