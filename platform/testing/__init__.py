"""The conformance kit: proves that a memory or an architecture keeps its interface's promises.

In a pytest of one's own:

    from titanlab.platform.testing import check_memory_module

    def test_my_memory_keeps_its_promises() -> None:
        check_memory_module(MyConfig).raise_failures()
"""

from titanlab.platform.testing.kit import check_architecture, check_memory_module
from titanlab.platform.testing.report import Outcome, Report

__all__ = ["Outcome", "Report", "check_architecture", "check_memory_module"]
