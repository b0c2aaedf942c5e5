"""report.html, the page a run ends with: `write_page` makes it, `rebuild` makes it again from a run's folder."""

from src.evidence.page.document import rebuild, render, write_page

__all__ = ["rebuild", "render", "write_page"]
