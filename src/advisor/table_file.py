"""A frozen advice table on disk, so that a resumed run uses the table it started with."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from src.advisor.table import AdviceTable, freeze_table
from src.errors import UserError
from src.files import write_atomically


def save_table(table: AdviceTable, path: Path) -> None:
    """Write the table whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"probabilities": table.probabilities, "covered": table.covered}
    facts = {"advisor_name": table.advisor_name, "advisor_identity": table.advisor_identity}
    write_atomically(path, _in_order(save(arrays, facts)))


def _in_order(raw: bytes) -> bytes:
    """The same safetensors file with its facts sorted by name: the library writes them in a random order, so that a
    table made again would have other bytes."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return raw[:8] + text.ljust(end - 8) + raw[end:]


def load_table(path: Path, sha256: str) -> AdviceTable:
    """The table that was saved there. UserError when it is not the one of that hash."""
    try:
        with safe_open(path, "np") as file:
            facts = file.metadata() or {}
            arrays = file.get_tensor("probabilities"), file.get_tensor("covered")
        table = freeze_table(*arrays, facts["advisor_name"], facts["advisor_identity"])
        found = table.sha256
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        found = f"unreadable: {error}"
    if found != sha256:
        raise UserError(
            f"The advice table {path} is not the one this run was made with (its hash is {found}, recorded is "
            f"{sha256}). Restart the phase with --start-phase 3."
        )
    return table
