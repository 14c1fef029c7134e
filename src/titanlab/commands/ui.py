"""To be written."""


def ui() -> None:
    """To be written."""
