"""A comparison as one HTML file that needs nothing else: a chart to play with, a table to sort, losses, examples.

``data`` puts the numbers into the page, ``lost`` finds what pruning cost, ``about`` says what strategies are, ``page``
writes; what happens in the browser is in ``assets`` (``logic.js`` computes, ``view.js`` draws). Without scripts the
page is a chart and a table.
"""

from tokenprune.report.comparison.page import report, write_report

__all__ = ["report", "write_report"]
