"""To be written."""


def status() -> None:
    """To be written."""
