"""To be written."""


def list_registered() -> None:
    """To be written."""
