"""Rebuild a run's report.html from its report.json.

    python -m src.evidence.page logs/RUN

Exit codes: 0 written, 2 report.json missing or unreadable.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.text import Text

from src.errors import EXIT_OK, UserError
from src.evidence.page.document import rebuild


def main(arguments: list[str] | None = None, program: str = "python -m src.evidence.page") -> int:
    """Parse, rebuild, print the page's path; returns the exit code."""
    assert __doc__
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", metavar="RUN_DIR", help="a run's folder, the one with report.json in it")
    try:
        page = rebuild(parser.parse_args(arguments).run_dir)
    except UserError as error:
        Console(stderr=True).print(Text(f"error: {error}"), soft_wrap=True)
        return error.exit_code
    Console().print(Text(f"Report: {page}"), soft_wrap=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
