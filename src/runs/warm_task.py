"""Imported once by the server that forks the workers of tasks: they find torch, the library and the compiled kernels
loaded, and share the memory of it."""

import torch._dynamo  # noqa: F401  (torch imports it, for two seconds, when the first optimizer is made)

import src.runs.evaluations
import src.runs.member_work
import src.trading.warm_worker  # noqa: F401
from src.agent.learner.engine import compile_kernels

compile_kernels()
