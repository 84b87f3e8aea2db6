"""`tokenturing demo`"""


def demo() -> None:
    """Later."""
