"""The conformance checks: what every model must do before its numbers mean anything.

    import bench.testing
    report = bench.testing.check("unisar")        # or the class of a model of one's own
    print(report.text())
    assert report.ok

The model is fitted for a few steps on a small planted log and looked at from outside only, through `fit`, `score`,
`stages`, `state` and `load_state`. What a check demands stands in its docstring (`bench.testing.CHECKS`).
"""

from bench.testing.conformance import CHECKS, check
from bench.testing.report import Report, Result

__all__ = ["CHECKS", "Report", "Result", "check"]
