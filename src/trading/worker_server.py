"""Imported first by the server that forks the workers: it imports the script that was started.

Python's own way to ask for it (`__main__` in the preload) does nothing before Python 3.14, and every worker imported
the script, with all that it imports, for itself.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from contextlib import suppress
from multiprocessing import spawn

MAIN = "WORKER_SERVER_MAIN"
"""The environment variable that tells the server which script, in multiprocessing's own words."""


def main_of_this_process() -> str:
    """What `import_main` needs, as JSON."""
    told = spawn.get_preparation_data("worker server")
    return json.dumps({name: told[name] for name in ("init_main_from_path", "init_main_from_name") if name in told})


def import_main(told: str) -> None:
    """Import the script as workers know it, under another name than `__main__`."""
    process = multiprocessing.current_process()
    process._inheriting = True  # type: ignore[attr-defined]  # a script without a main guard must not start its run here
    try:
        # Whatever it raises, it raises again in the worker that needs it, which tells.
        with suppress(Exception, SystemExit):
            spawn.prepare(json.loads(told))
    finally:
        del process._inheriting  # type: ignore[attr-defined]


if MAIN in os.environ:
    import_main(os.environ.pop(MAIN))
