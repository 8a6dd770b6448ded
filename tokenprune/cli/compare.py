"""``tokenprune compare``."""


def compare() -> None:
    """Compare."""
