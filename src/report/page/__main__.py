"""Rebuild a run's report.html from its report.json.

    python -m src.report.page logs/RUN

Exit codes: 0 written, 2 report.json missing or unreadable.
"""

from __future__ import annotations

from src.console import PlainConsole
from src.errors import EXIT_OK, UserError
from src.report.page.document import rebuild
from src.shell import Parser, print_paragraph, run_main


def main(arguments: list[str] | None = None, program: str = "python -m src.report.page") -> int:
    """Parse, rebuild, say where the page is; the exit code."""
    parser = Parser("Make a run's report.html again from its report.json.", prog=program)
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run's folder, the one that holds report.json")
    try:
        page = rebuild(parser.parse_args(arguments).run_dir)
    except UserError as error:
        print_paragraph(f"error: {error}")
        return error.exit_code
    PlainConsole().print(f"Report: {page}", soft_wrap=True)
    return EXIT_OK


if __name__ == "__main__":
    run_main(main)
