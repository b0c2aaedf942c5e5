"""The Python of the specification, block by block, and how a test runs it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SPECIFICATION = Path(__file__).resolve().parents[2].parent / "shared" / "specification.md"
"""Where it is at hand; the calls are held here."""

BLOCKS: Mapping[str, str] = MappingProxyType(
    {
        "monitoring": """\
from src.testing_framework import HardwareMonitor

monitor = HardwareMonitor(log_interval=1)
monitor.start_monitoring()

avg_gpu = monitor.get_average_gpu_utilization()
peak_memory = monitor.get_peak_memory_usage()

monitor.save_metrics("hardware_metrics.csv")
""",
        "validation": """\
from src.testing_framework import TestingFramework, create_test_config

config = create_test_config("hardware_maximized", "NQ")

framework = TestingFramework(config)

framework.run_hardware_maximized_validation()

print(f"GPU Utilization: {framework.hardware_monitor.get_average_gpu_utilization():.1f}%")
print(f"Execution Time: {framework.total_time:.2f} seconds")
""",
        "cache": """\
cache = OptimizedFeatureCache(max_size=1000)

cached_features = cache.get(cache_key)
if cached_features is None:
    features = calculate_llm_features(data)
    cache.put(cache_key, features)
""",
        "fusion": """\
fused_actions = fusion.fuse_batch(
    rl_actions, rl_confidences,
    llm_actions, llm_confidences,
    risk_scores
)
""",
        "networks": """\
net_arch = [512, 256, 128]

net_arch = [256, 128]
""",
        "pool": """\
pool = EnvironmentStatePool(env_class, env_kwargs, pool_size=8)

env_id, env = pool.acquire()

pool.release(env_id)
""",
        "menu": """\
"9": "Hardware-Maximized Test (Phase 3)",
"10": "Pipeline Test (Phase 3)",
"11": "Validate Testing Framework"
""",
    }
)


def run(block: str, **names: Any) -> tuple[dict[str, Any], str]:
    """Run a block as a script that has `names`: the names afterwards, and what it printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(BLOCKS[block], f"<{block}>", "exec"), names)
    return names, printed.getvalue()


def code_of(text: str) -> list[str]:
    """The lines of a block without comments and blank lines."""
    lines = (line.partition("  #")[0].rstrip() for line in text.splitlines())
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
