"""How a served model's answers compare with the same weights in process: the bundled model behind llama.cpp.

    python -m tests.advisor.endpoint_study [--situations 60] [--threads 1]

The bundled file's weights are 4 bits wide. In process they are unpacked to float32. llama.cpp multiplies them as they
are, with activations rounded to 8 bits. So the model is served twice: as it is shipped, which shows what that rounding
costs; and with its weights unpacked to float32, the same numbers as in process, which shows what the protocol costs.
Exit code 1 where unpacked weights give another first choice in more than 1% of situations. Needs
requirements-model.txt and requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from src.advisor.calibration import served_scores
from src.advisor.endpoint import endpoint_model
from src.advisor.gguf_bundle import bundled_file
from src.advisor.models import load_model
from src.advisor.prompts import load_prompts
from src.advisor.scoring import LLMScorer
from src.advisor.settings import LLMSettings
from src.advisor.situations import N_MARKET_SITUATIONS, encode
from src.advisor.table import LABEL_SETS
from src.trading.layout import N_SIDES
from tests.advisor.served import ServedModel

MODEL = "bundled:smollm2"
LEAST_SAME = 0.99


def write_unpacked(packed: Path, path: Path) -> Path:
    """The same GGUF file with every weight in float32."""
    import gguf

    reader = gguf.GGUFReader(packed)
    writer = gguf.GGUFWriter(str(path), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def compared(what: str, gguf: Path, folder: Path, situations: np.ndarray, own: np.ndarray, *options: str) -> float:
    """Print how the served file's answers compare with `own`; returns the share of the same first choices."""
    console = Console(soft_wrap=True)
    with ServedModel(gguf, "--alias", "smollm2", *options) as server:
        settings = LLMSettings(
            model="smollm2", endpoint=server.url, store_path=folder / f"{gguf.stem}.sqlite3",
            endpoint_timeout_s=3600.0, endpoint_concurrency=1,
        )  # fmt: skip
        model = endpoint_model(settings)
        scorer = model.load()
        began = time.perf_counter()
        found = scorer.score(situations)
        seconds = time.perf_counter() - began
    labels = LABEL_SETS[situations % N_SIDES]
    differences = np.abs(found[labels] - own[labels])
    same = []
    for calibrate in (False, True):
        one, other = (served_scores(raw, situations, calibrate=calibrate).argmax(axis=1) for raw in (own, found))
        same.append(float((one == other).mean()))
    console.print(
        f"{what}: same first choice in {same[0]:.1%} of {len(situations)} situations ({same[1]:.1%} calibrated); "
        f"log-probabilities differ by {np.nanmean(differences):.4f} on average, "
        f"{np.nanpercentile(differences, 99):.4f} at the 99th percentile, {np.nanmax(differences):.4f} at most; the "
        f"server against itself "
        f"{model.fingerprint.jitter:.4f}; {scorer.stats.labels_missing} of {labels.sum()} labels missing; "
        f"{seconds:.0f} s, {scorer.stats.requests} requests, route {scorer.stats.route}"
    )
    return same[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--situations", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    codes = np.unique(np.linspace(1, N_MARKET_SITUATIONS - 1, max(1, args.situations // N_SIDES)).astype(int))
    situations = encode(codes[:, np.newaxis], np.arange(N_SIDES)).reshape(-1)
    own = LLMScorer(load_model(MODEL, threads=args.threads), load_prompts()).score(situations)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        unpacked = write_unpacked(bundled_file(MODEL), folder / "unpacked.gguf")
        same = compared("unpacked to float32", unpacked, folder, situations, own, "--exact")
        compared("as shipped, 4 bits", bundled_file(MODEL), folder, situations, own)
    return 0 if same >= LEAST_SAME else 1


if __name__ == "__main__":
    raise SystemExit(main())
