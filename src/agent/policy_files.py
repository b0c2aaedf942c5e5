"""A trained policy as data: `NAME.policy.safetensors` (weights) and `NAME.policy.json` (everything else).

    policy = load_policy("hybrid.policy.json")
    actions = policy.act(observations, masks)

Loading runs no code: the zips are pickles, these files are numbers and text. The file imports nothing of this
repository, stable-baselines3 or gymnasium, so a production service can copy it and needs torch and safetensors only.

    logits = policy network(observation) [+ advice weight x (clip(log p, log_p_min, 0) - its mean over p > 0)]

p is the advice in the observation's columns `advice.columns`; the term is left out for a policy without advice and
where p is 0. With `advice.networks_see_it` false the networks see zeros in those columns. An illegal action's logit
becomes -1e8.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load

FORMAT, VERSION = "hybrid-trading-policy", 1
ILLEGAL_LOGIT = -1e8
ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu}
Layers = tuple[tuple[torch.Tensor, torch.Tensor], ...]


class PolicyFileError(ValueError):
    """Policy files that are damaged, incomplete or of another format; the text names the file and the reason."""


@dataclass(frozen=True)
class Advice:
    """How advice enters the decision: `columns` [first, last + 1) of the observation hold p of each action."""

    weight: torch.Tensor
    log_p_min: float
    columns: slice
    networks_see_it: bool


@dataclass(frozen=True)
class DataPolicy:
    """A policy that was read from data. Observations are float32[k, n_observations], masks bool[k, n_actions]."""

    n_observations: int
    actions: tuple[str, ...]
    activation: str
    policy_layers: Layers
    value_layers: Layers
    advice: Advice | None
    facts: Mapping[str, Any]
    """policy.json as it was read."""

    @torch.no_grad()
    def logits(self, observations: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """Normalised log-probabilities, float32[k, n_actions]."""
        return self._logits(observations, masks).numpy()

    @torch.no_grad()
    def probabilities(self, observations: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """Probability of each action, float32[k, n_actions]; 0 for an illegal one."""
        return torch.softmax(self._logits(observations, masks), dim=-1).numpy()

    def act(self, observations: np.ndarray, masks: np.ndarray | None = None) -> np.ndarray:
        """The most probable action, int64[k]."""
        return self.probabilities(observations, masks).argmax(axis=1)

    @torch.no_grad()
    def values(self, observations: np.ndarray) -> np.ndarray:
        """The critic's value, float32[k]."""
        return self._network(self._seen(self._checked(observations)), self.value_layers).squeeze(1).numpy()

    def _logits(self, observations: np.ndarray, masks: np.ndarray | None) -> torch.Tensor:
        obs = self._checked(observations)
        logits = self._network(self._seen(obs), self.policy_layers)
        if self.advice is not None:
            logits = logits + _pool(obs[:, self.advice.columns], self.advice)
        logits = logits - logits.logsumexp(dim=-1, keepdim=True)
        if masks is not None:
            legal = torch.as_tensor(np.asarray(masks, dtype=np.bool_)).reshape(logits.shape)
            logits = torch.where(legal, logits, torch.tensor(ILLEGAL_LOGIT, dtype=logits.dtype))
        return logits - logits.logsumexp(dim=-1, keepdim=True)  # twice without masks too, as in training

    def _checked(self, observations: np.ndarray) -> torch.Tensor:
        obs = np.asarray(observations, dtype=np.float32)
        if obs.ndim != 2 or obs.shape[1] != self.n_observations:
            raise ValueError(f"observations have shape {obs.shape}; needed is (k, {self.n_observations})")
        return torch.as_tensor(obs)

    def _seen(self, obs: torch.Tensor) -> torch.Tensor:
        if self.advice is None or self.advice.networks_see_it:
            return obs
        seen = obs.clone()
        seen[:, self.advice.columns] = 0.0
        return seen

    def _network(self, x: torch.Tensor, layers: Layers) -> torch.Tensor:
        activation = ACTIVATIONS[self.activation]
        for weight, bias in layers[:-1]:
            x = activation(torch.nn.functional.linear(x, weight, bias))
        return torch.nn.functional.linear(x, *layers[-1])


def _pool(p: torch.Tensor, advice: Advice) -> torch.Tensor:
    given = p > 0.0
    log_p = torch.where(given, p.log().clamp(advice.log_p_min, 0.0), 0.0)
    mean = log_p.sum(dim=1, keepdim=True) / given.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(given & (advice.weight != 0.0), advice.weight * (log_p - mean), -0.0)


def load_policy(path: str | Path) -> DataPolicy:
    """The policy of a `*.policy.json` and the weights it names, which must lie in the same folder.

    Raises PolicyFileError for files that are missing, damaged or of another format.
    """
    path = Path(path)
    try:
        facts = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        if facts["version"] != VERSION:
            raise ValueError(f"its version is {facts['version']!r}, this loader reads {VERSION}")
        weights = path.with_name(Path(facts["weights"]["file"]).name)
        raw = weights.read_bytes()
        if hashlib.sha256(raw).hexdigest() != facts["weights"]["sha256"]:
            raise ValueError(f"{weights.name} has another SHA-256 than the one recorded")
        return _built(facts, load(raw))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise PolicyFileError(f"The policy {path} cannot be loaded ({reason}). Export it again.") from error


def _built(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> DataPolicy:
    n_observations, actions = facts["observation"]["size"], tuple(facts["actions"])
    activation, advice = facts["networks"]["activation"], facts["advice"]
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is none of {', '.join(ACTIVATIONS)}")
    # Copied into memory of torch's own: the alignment of foreign memory changes what a product rounds to.
    owned = {name: torch.empty_like(tensor).copy_(tensor) for name, tensor in tensors.items()}
    policy = _layers(facts["networks"]["policy"], owned, n_observations, len(actions))
    value = _layers(facts["networks"]["value"], owned, n_observations, 1)
    pooled = None
    if advice is not None:
        first, end = advice["columns"]
        weight = float(advice["weight"])
        if not (0 <= first < end <= n_observations and end - first == len(actions)):
            raise ValueError(f"advice columns [{first}, {end}) do not fit {n_observations} observations")
        if not (math.isfinite(weight) and weight >= 0.0):
            raise ValueError(f"advice weight {weight} is not a finite number of at least 0")
        pooled = Advice(
            torch.tensor(weight, dtype=torch.float32),
            float(advice["log_p_min"]),
            slice(first, end),
            bool(advice["networks_see_it"]),
        )
    return DataPolicy(n_observations, actions, activation, policy, value, pooled, facts)


def _layers(names: Sequence[str], tensors: Mapping[str, torch.Tensor], n_in: int, n_out: int) -> Layers:
    """Weight and bias of each layer; ValueError where sizes do not follow one another."""
    layers = tuple((tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names)
    for name, (weight, bias) in zip(names, layers, strict=True):
        if (
            weight.dtype != torch.float32
            or weight.ndim != 2
            or weight.shape[1] != n_in
            or bias.shape != weight.shape[:1]
        ):
            raise ValueError(
                f"layer {name} has weight {tuple(weight.shape)} and bias {tuple(bias.shape)} for {n_in} inputs"
            )
        n_in = weight.shape[0]
    if n_in != n_out:
        raise ValueError(f"the last of the layers {list(names)} has {n_in} outputs, not {n_out}")
    return layers
