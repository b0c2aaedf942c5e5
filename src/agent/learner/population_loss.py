"""PPO's arithmetic with a leading member axis: sampling, advantages, the loss and its derivatives, Adam.

The kernels of `kernels.py` as torch operations, in the same precisions: probabilities and losses in float64, weights in
float32. Nothing here reads a number back to the host, so all of it can be recorded in a CUDA graph. M members, B rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.agent.learner.kernels import CLIPPED, ENTROPY, ILLEGAL, KL, N_SUMS, POLICY_LOSS, VALUE_LOSS
from src.agent.learner.population_memory import DeviceMemory
from src.agent.learner.population_network import StackedWeights
from src.agent.policy import LOG_P_MIN


def pool_terms(opinion: Tensor, weight: Tensor) -> Tensor:
    """What the pooled opinion adds to the logits: float32[M, ..., 6] of probabilities and the members' weights
    float32[M]. -0.0 where it adds nothing, as `policy.opinion_pool` has it."""
    weight = weight.view(-1, *[1] * (opinion.dim() - 1))
    legal = opinion > 0.0
    log_p = torch.where(legal, opinion.log().clamp(LOG_P_MIN, 0.0), 0.0)
    mean = log_p.sum(dim=-1, keepdim=True) / legal.sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.where(legal & (weight != 0.0), weight * (log_p - mean), -0.0)


def log_probabilities(logits: Tensor, terms: Tensor, masks: Tensor) -> Tensor:
    """Of all actions, float64; illegal ones have next to none."""
    return torch.log_softmax(torch.where(masks, logits.double() + terms, ILLEGAL), dim=-1)


def sample(log_p: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Actions int64[M, B] and their log-probabilities float64[M, B]: the largest p / noise, noise ~ Exp(1), which is
    torch's multinomial."""
    actions = (log_p.exp().float() / noise).argmax(dim=-1)
    return actions, log_p.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def advantages_of(
    rewards: Tensor, values: Tensor, ended: Tensor, last_values: Tensor, gamma: Tensor, lambdas: Tensor, out: Tensor
) -> None:
    """Generalized advantages of a rollout into `out`, all float32[M, steps, envs] but `ended` (bool), `last_values`
    [M, envs], and gamma and gamma x lambda float32[M]. Rounded as the library's buffer does."""
    goes_on = 1.0 - ended.float()
    following = torch.cat([values[:, 1:], last_values.unsqueeze(1)], dim=1)
    delta = rewards + gamma.view(-1, 1, 1) * following * goes_on - values
    keeps = lambdas.view(-1, 1, 1) * goes_on
    last = torch.zeros_like(last_values)
    for step in reversed(range(rewards.shape[1])):
        last = delta[:, step] + keeps[:, step] * last
        out[:, step] = last


class LossRows(NamedTuple):
    """Rows of a minibatch: actions int64, masks bool[M, B, actions], terms float32 of that shape, the rest
    float32[M, B]."""

    actions: Tensor
    masks: Tensor
    terms: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass(frozen=True)
class MemberSettings:
    """What members may have of their own in a loss and its step: float64[M] on the device, changed between updates.
    A limit of the KL divergence that is infinite stops nothing; a `clip_vf` that is infinite bounds no value."""

    clip: Tensor
    clip_vf: Tensor
    ent_coef: Tensor
    vf_coef: Tensor
    max_grad_norm: Tensor
    kl_limit: Tensor
    learning_rate: Tensor

    @classmethod
    def make(cls, members: int, memory: DeviceMemory) -> MemberSettings:
        """All zero."""
        return cls(*(memory.zeros(members, dtype=torch.float64) for _ in range(7)))


def loss_gradient(
    logits: Tensor, values: Tensor, rows: LossRows, settings: MemberSettings, *, normalize: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives of each member's loss by its logits and values, float32, and the loss's parts, float64[M, 5], means
    over the rows in the order of `kernels`."""
    d_logits, policy_means = _policy_gradient(logits, rows, settings, normalize=normalize)
    d_values, value_loss = _value_gradient(values, rows, settings)
    means = torch.empty(len(logits), N_SUMS, dtype=torch.float64, device=logits.device)
    means[:, VALUE_LOSS] = value_loss
    for place, mean in policy_means.items():
        means[:, place] = mean
    return d_logits, d_values, means


def _policy_gradient(
    logits: Tensor, rows: LossRows, settings: MemberSettings, *, normalize: bool
) -> tuple[Tensor, dict[int, Tensor]]:
    n = logits.shape[1]
    advantages = rows.advantages.double()
    if normalize:
        mean, deviation = advantages.mean(1, keepdim=True), advantages.std(1, keepdim=True)
        advantages = (advantages - mean) / (deviation + 1e-8)
    log_p = log_probabilities(logits, rows.terms, rows.masks)
    p = log_p.exp()
    chosen = rows.actions.unsqueeze(-1)
    log_ratio = log_p.gather(-1, chosen).squeeze(-1) - rows.log_probs
    ratio = log_ratio.exp()
    clip = settings.clip.unsqueeze(1)
    plain, clipped = advantages * ratio, advantages * ratio.clamp(1.0 - clip, 1.0 + clip)
    slope = torch.where(clipped < plain, 0.0, -plain).unsqueeze(-1)  # a ratio not clipped is equal to the bit
    entropy = -torch.where(rows.masks, p * log_p, 0.0).sum(-1)
    by_policy = slope * -p
    by_policy.scatter_add_(-1, chosen, slope)
    by_entropy = settings.ent_coef.view(-1, 1, 1) * p * (log_p + entropy.unsqueeze(-1))
    d_logits = torch.where(rows.masks, by_policy + by_entropy, 0.0) / n
    means = {
        POLICY_LOSS: -torch.minimum(plain, clipped).mean(1),
        ENTROPY: entropy.mean(1),
        CLIPPED: ((ratio - 1.0).abs() > clip).double().mean(1),
        KL: ((ratio - 1.0) - log_ratio).mean(1),
    }
    return d_logits.float(), means


def _value_gradient(values: Tensor, rows: LossRows, settings: MemberSettings) -> tuple[Tensor, Tensor]:
    clip = settings.clip_vf.unsqueeze(1)
    moved = (values - rows.values).double()
    inside = ~(moved.abs() > clip)
    bounded = torch.where(inside, values.double(), rows.values + torch.copysign(clip, moved))
    error = bounded - rows.returns
    slope = settings.vf_coef.unsqueeze(1) * 2.0 * error / values.shape[1]
    return torch.where(inside, slope, 0.0).float(), error.square().mean(1)


def clipped_step(
    weights: StackedWeights,
    settings: MemberSettings,
    steps: Tensor,
    active: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Clip each member's gradient by its own norm and make Adam's `steps`-th step with it (int64[M], already counted)
    where a member is `active` (bool[M]); of the others nothing changes. The gradient is used up."""
    gradient, first, second = weights.gradient, weights.first_moment, weights.second_moment
    beta1, beta2 = betas
    norm = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64)
    scale = settings.max_grad_norm / (norm + 1e-6)
    scale = torch.where(scale > 1.0, 1.0, scale)  # NaN stays NaN
    rate = torch.where(active, settings.learning_rate / (1.0 - torch.pow(beta1, steps.double())), 0.0)
    root = torch.where(active, torch.rsqrt(1.0 - torch.pow(beta2, steps.double())), 1.0)
    gain = torch.where(active, 1.0 - beta1, 0.0)
    decay = torch.where(active, beta2, 1.0)
    rate, root, gain, decay, scale = (number.float().unsqueeze(1) for number in (rate, root, gain, decay, scale))
    gradient.mul_(scale).masked_fill_(~active.unsqueeze(1), 0.0)
    first.lerp_(gradient, gain)
    second.mul_(decay).addcmul_(gradient, gradient, value=1.0 - beta2)
    torch.sqrt(second, out=gradient)
    gradient.mul_(root).add_(eps)
    torch.div(first, gradient, out=gradient)
    weights.values.sub_(gradient.mul_(rate))
