"""To be written."""


def run() -> None:
    """To be written."""
