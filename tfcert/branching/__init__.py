"""Complete verification: a problem is split until every part is proved or a point breaks it."""

from tfcert.branching.outcome import Counterexample, Outcome
from tfcert.branching.search import Progress
from tfcert.branching.verifying import find_counterexample, verify

__all__ = ["Counterexample", "Outcome", "Progress", "find_counterexample", "verify"]
