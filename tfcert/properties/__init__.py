"""What is asked of a network."""

from tfcert.properties.cases import Case

__all__ = ["Case"]
