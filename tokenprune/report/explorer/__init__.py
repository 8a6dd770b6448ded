"""A page to look into what strategies keep of a picture and why: one HTML file that needs nothing else.

``gather`` measures, ``page`` writes; what happens in the browser is in ``assets`` (``logic.js`` computes, ``view.js``
draws). The page holds pick orders, not pictures of results: it replays them at every budget.
"""

from tokenprune.report.explorer.gather import Exploration, explore
from tokenprune.report.explorer.page import explorer_page, write_explorer

__all__ = ["Exploration", "explore", "explorer_page", "write_explorer"]
