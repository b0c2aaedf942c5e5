"""How a served model's answers compare with the same weights in process: the bundled model behind llama.cpp.

    python -m tests.advisor.endpoint_study [--situations 100] [--threads 1]

The file's weights are 4 bits wide; in process they are unpacked to float32, in llama.cpp they are multiplied as they
are, with activations rounded to 8 bits. Needs requirements-model.txt and requirements-dev.txt.
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--situations", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    console = Console(soft_wrap=True)
    codes = np.unique(np.linspace(1, N_MARKET_SITUATIONS - 1, max(1, args.situations // N_SIDES)).astype(int))
    situations = encode(codes[:, np.newaxis], np.arange(N_SIDES)).reshape(-1)
    began = time.perf_counter()
    own = LLMScorer(load_model(MODEL, threads=args.threads), load_prompts()).score(situations)
    own_s = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder, ServedModel(bundled_file(MODEL), "--alias", "smollm2") as server:
        settings = LLMSettings(
            model="smollm2", endpoint=server.url, store_path=Path(folder) / "advice.sqlite3",
            endpoint_timeout_s=3600.0, endpoint_concurrency=1,
        )  # fmt: skip
        model = endpoint_model(settings)
        scorer = model.load()
        began = time.perf_counter()
        found = scorer.score(situations)
        served_s = time.perf_counter() - began
    labels = LABEL_SETS[situations % N_SIDES]
    differences = np.abs(found[labels] - own[labels])
    shares = {}
    for name, calibrate in (("as the model says it", False), ("calibrated, as the advice is served", True)):
        one, other = (served_scores(raw, situations, calibrate=calibrate).argmax(axis=1) for raw in (own, found))
        shares[name] = float((one == other).mean())
        console.print(f"same first choice, {name}: {shares[name]:.1%} of {len(situations)} situations")
    console.print(
        f"log-probabilities: mean difference {np.nanmean(differences):.4f}, 99th percentile "
        f"{np.nanpercentile(differences, 99):.4f}, largest {np.nanmax(differences):.4f}; the server against itself "
        f"{model.fingerprint.jitter:.4f}; missing {scorer.stats.labels_missing} of {labels.sum()}"
    )
    stats = scorer.stats
    console.print(f"in process {own_s:.0f} s, served {served_s:.0f} s ({stats.requests} requests, route {stats.route})")
    return 0 if shares["as the model says it"] >= LEAST_SAME else 1


if __name__ == "__main__":
    raise SystemExit(main())
