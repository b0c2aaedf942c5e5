"""What the fused learner trains; the library's own update trains the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from src.agent.policy import FlattenWithoutOpinion, HybridPolicy

ACTIVATIONS = {nn.Tanh: "tanh", nn.ReLU: "relu"}
REPLACEABLE = ("forward", "evaluate_actions", "extract_features", "predict_values")
"""Policy methods that the fused learner replaces."""


def why_not_covered(model: Any) -> str | None:
    """Why the library's own update must train this model, in a few words; None where the fused learner can."""
    return next(_reasons(model), None)


def why_not_now(model: Any) -> str | None:
    """The same for what may change between updates: methods replaced and hooks added by somebody who watches."""
    policy = model.policy
    replaced = [name for name in REPLACEABLE if name in vars(policy)]
    if replaced:
        return f"the policy's method {replaced[0]} is replaced"
    if "step" in vars(policy.optimizer):
        return "the optimizer's method step is replaced"
    hooked = [name for name, parameter in policy.named_parameters() if parameter._backward_hooks]
    return f"the gradient of {hooked[0]} has a hook" if hooked else None


def _reasons(model: Any) -> Iterator[str]:
    if model.device.type != "cpu":
        yield f"the device is {model.device.type}"
    space, actions = model.observation_space, model.action_space
    if not isinstance(space, spaces.Box) or is_image_space(space):
        yield f"observations are {space}, not a Box of numbers"
    if not isinstance(actions, spaces.Discrete) or actions.start != 0:
        yield f"actions are {actions}, not Discrete from 0"
    yield from _policy_reasons(model.policy)
    if type(model.rollout_buffer) is not MaskableRolloutBuffer:
        yield f"the rollout buffer is a {type(model.rollout_buffer).__name__}"
    if model.use_sde:
        yield "exploration is state-dependent"


def why_no_plain_networks(policy: Any) -> str | None:
    """Why a policy's decisions are no plain networks' (and pool's), in a few words; None where they are."""
    return next(_network_reasons(policy), None)


def _policy_reasons(policy: Any) -> Iterator[str]:
    reason = why_no_plain_networks(policy)
    if reason is not None:
        yield reason
        return
    yield from _optimizer_reasons(policy)


def _network_reasons(policy: Any) -> Iterator[str]:
    if type(policy) not in (MaskableActorCriticPolicy, HybridPolicy):
        yield f"the policy is a {type(policy).__name__}"
        return
    if type(policy.features_extractor) not in (FlattenExtractor, FlattenWithoutOpinion):
        yield f"features come from a {type(policy.features_extractor).__name__}"
    extractor = policy.mlp_extractor
    if type(extractor) is not MlpExtractor:
        yield f"the networks are a {type(extractor).__name__}"
        return
    if policy.activation_fn not in ACTIVATIONS:
        yield f"the activation is {policy.activation_fn.__name__}, not tanh or relu"
    if not len(extractor.policy_net) or not len(extractor.value_net):
        yield "a network has no hidden layer"


def _optimizer_reasons(policy: Any) -> Iterator[str]:
    optimizer = policy.optimizer
    if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
        yield f"the optimizer is a {type(optimizer).__name__}, not Adam over one group"
        return
    group = optimizer.param_groups[0]
    changed = [name for name in ("amsgrad", "maximize", "differentiable", "weight_decay") if group[name]]
    if changed:
        yield f"Adam has {changed[0]}"
    if any(not p.requires_grad or p.dtype != torch.float32 for p in policy.parameters()):
        yield "some weights are frozen or not float32"
