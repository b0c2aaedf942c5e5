"""Checks of a hybrid RL + LLM futures-trading agent before its production run."""
