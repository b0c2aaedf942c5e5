"""Imported once by the server that forks the workers of tasks: they find torch, the library and the compiled kernels
loaded, and share the memory of it."""

import src.runs.evaluations
import src.runs.member_work  # noqa: F401
from src.agent.learner.engine import compile_kernels
from src.agent.session_play import load_decisions
from src.trading.session_batch import SessionBatch
from src.trading.warm_worker import small_market

compile_kernels()
load_decisions(SessionBatch(*small_market()), first_bar=0)
