"""Measure speed side by side with PyTorch."""


def add_arguments(parser) -> None:
    """Adds what to measure."""


def run(arguments) -> None:
    """Prints the table."""
