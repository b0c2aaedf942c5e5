"""report.html, the page of a run: `write_page` writes it, `rebuild` writes it again from a run's folder."""

from src.report.page.document import rebuild, render, write_page

__all__ = ["rebuild", "render", "write_page"]
