"""To be written."""


def plan() -> None:
    """To be written."""
