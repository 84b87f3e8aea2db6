"""`tokenturing stream`"""


def stream() -> None:
    """Later."""
