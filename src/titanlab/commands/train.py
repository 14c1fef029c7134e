"""To be written."""


def train() -> None:
    """To be written."""
