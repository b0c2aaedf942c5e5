"""The hybrid policy: pools the RL agent's logits and the advisor's opinion into one distribution.

    logits = RL logits + llm_weight x (clip(log p, -4, 0) - its mean over the legal actions)

p is the opinion slice of the observation itself, so re-evaluating a stored rollout reproduces the distribution that was
acted on and PPO stays on-policy. A zero slice is an abstention and adds nothing. The sum precedes the action mask.

`export.py` pickles this module by value: it may use constants of other rooms, but no class or function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from src.trading.layout import N_ACTIONS, N_OBS, OPINION

LOG_P_MIN = -4.0
"""Floor of log p: one answer of the advisor can lean against an action but never forbid it."""


def opinion_pool(opinion: th.Tensor, weight: th.Tensor) -> th.Tensor:
    """Term that the opinion adds to the RL logits: probabilities float32[k, 6], weight float32[] -> float32[k, 6].

    p > 0 marks the legal actions. Where nothing is added (abstention, illegal action, weight 0) the value is -0.0:
    x + -0.0 equals x bit for bit, while x + 0.0 would turn a logit of -0.0 into 0.0.
    """
    legal = opinion > 0.0
    log_p = th.where(legal, opinion.log().clamp(LOG_P_MIN, 0.0), 0.0)
    mean = log_p.sum(dim=1, keepdim=True) / legal.sum(dim=1, keepdim=True).clamp(min=1)
    return th.where(legal & (weight != 0.0), weight * (log_p - mean), -0.0)


class FlattenWithoutOpinion(FlattenExtractor):
    """The observation with its six opinion columns zeroed: the networks' input when opinion features are off."""

    def forward(self, observations: th.Tensor) -> th.Tensor:
        features = super().forward(observations).clone()
        features[:, OPINION] = 0.0
        return features


class HybridPolicy(MaskableActorCriticPolicy):
    """MaskablePPO's actor-critic policy with the opinion pooled into its logits.

    `llm_weight` (buffer, float32[]) is the current pool weight; it is saved with the weights but not trained. With
    `use_opinion_features=False` the networks see zeros for the opinion, while the pool still reads it. With that and
    weight 0 the policy equals the stock policy bit for bit.

    In stock code forward (rollouts), evaluate_actions (updates) and get_distribution (predict) each build their own
    distribution, so all three are overridden, each in the stock order of operations. Raises ValueError for an
    observation other than float[261], an action space other than Discrete(6), or a negative or infinite weight.
    """

    llm_weight: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        llm_weight: float = 0.0,
        use_opinion_features: bool = True,
        **kwargs: Any,
    ) -> None:
        if observation_space.shape != (N_OBS,):
            raise ValueError(f"HybridPolicy reads observations of shape ({N_OBS},), got {observation_space}")
        if not isinstance(action_space, spaces.Discrete) or action_space.n != N_ACTIONS:
            raise ValueError(f"HybridPolicy chooses among Discrete({N_ACTIONS}), got {action_space}")
        if not use_opinion_features:
            kwargs["features_extractor_class"] = FlattenWithoutOpinion
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)
        self.use_opinion_features = use_opinion_features
        self.register_buffer("llm_weight", th.zeros((), dtype=th.float32))
        self.set_llm_weight(llm_weight)

    def set_llm_weight(self, weight: float) -> None:
        """Set the pool weight, between rollouts only: within one, the update would use another policy than acted."""
        if not 0.0 <= weight < float("inf"):
            raise ValueError(f"llm_weight is {weight}; it must be finite and at least 0")
        self.llm_weight.fill_(weight)

    def forward(
        self, obs: th.Tensor, deterministic: bool = False, action_masks: np.ndarray | None = None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Actions, values and log-probabilities of a rollout step; shapes as in the stock policy."""
        latent_pi, latent_vf = self._latents(obs)
        values = self.value_net(latent_vf)
        distribution = self._pooled_distribution(latent_pi, obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        log_prob = distribution.log_prob(actions)
        return actions.reshape((-1, *self.action_space.shape)), values, log_prob  # type: ignore[misc]

    def evaluate_actions(
        self, obs: th.Tensor, actions: th.Tensor, action_masks: th.Tensor | None = None
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Values, log-probabilities and entropy of an update; shapes as in the stock policy."""
        latent_pi, latent_vf = self._latents(obs)
        distribution = self._pooled_distribution(latent_pi, obs, action_masks)
        log_prob = distribution.log_prob(actions)
        values = self.value_net(latent_vf)
        return values, log_prob, distribution.entropy()

    def get_distribution(  # type: ignore[override]
        self, obs: th.Tensor, action_masks: np.ndarray | None = None
    ) -> MaskableDistribution:
        """The masked distribution that `predict` uses."""
        features = super(MaskableActorCriticPolicy, self).extract_features(obs, self.pi_features_extractor)
        return self._pooled_distribution(self.mlp_extractor.forward_actor(features), obs, action_masks)

    def _latents(self, obs: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        features = self.extract_features(obs)
        if isinstance(features, th.Tensor):
            return self.mlp_extractor(features)
        pi_features, vf_features = features
        return self.mlp_extractor.forward_actor(pi_features), self.mlp_extractor.forward_critic(vf_features)

    def _pooled_distribution(
        self, latent_pi: th.Tensor, obs: th.Tensor, action_masks: np.ndarray | th.Tensor | None
    ) -> MaskableDistribution:
        opinion = obs[:, OPINION].float()
        logits = self.action_net(latent_pi) + opinion_pool(opinion, self.llm_weight)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        return distribution

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "llm_weight": float(self.llm_weight),
            "use_opinion_features": self.use_opinion_features,
        }


Weights = Mapping[str, th.Tensor]
"""A policy's state dict."""


def transfer_weights(base: MaskableActorCriticPolicy | Weights, target: MaskableActorCriticPolicy) -> None:
    """Initialize `target`, hybrid or stock, from a base policy or its state dict; opinion weights start at zero.

    Base training saw zeros in the opinion columns, so their first-layer weights kept the random initialization; live
    opinions through them would shift the critic by 11-17% of its standard deviation. They start at zero in both
    networks. Values are copied into tensors that torch allocated, since the alignment of foreign memory changes
    results. A pool weight is kept. Raises RuntimeError if the architectures differ.
    """
    state = dict(base.state_dict() if isinstance(base, nn.Module) else base)
    if isinstance(target, HybridPolicy):
        state["llm_weight"] = target.llm_weight
    target.load_state_dict(state)
    with th.no_grad():
        for layer in first_layers(target):
            layer.weight[:, OPINION] = 0.0
    target.optimizer.state.clear()


def first_layers(policy: MaskableActorCriticPolicy) -> tuple[nn.Linear, nn.Linear]:
    """The layers that read the observation, of policy network and value network."""
    extractor = policy.mlp_extractor
    policy_layers = [layer for layer in (*extractor.policy_net, policy.action_net) if isinstance(layer, nn.Linear)]
    value_layers = [layer for layer in (*extractor.value_net, policy.value_net) if isinstance(layer, nn.Linear)]
    return policy_layers[0], value_layers[0]
