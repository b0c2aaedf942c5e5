"""The interfaces that the specification prints, section by section: commands, YAML, JSON keys, menu entries.

What they mean is tested in the modules beside; that none is missing, in test_nothing_is_missing.py.
"""

from __future__ import annotations

from collections.abc import Mapping

INSTALL = (
    "pip install -r requirements.txt",
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu118",
)

HARDWARE_COMMANDS = (
    "python run_hardware_maximized.py --market NQ",
    "python run_hardware_maximized.py --market ES --mock-llm",
    "python run_hardware_maximized.py --market YM --config config/test_hardware_maximized.yaml",
    "python run_hardware_maximized.py --market RTY --quick",
)
PIPELINE_COMMANDS = (
    "python run_pipeline.py --market NQ",
    "python run_pipeline.py --market ES --start-phase 2",
    "python run_pipeline.py --market YM --auto-resume",
    "python run_pipeline.py --market RTY --quick",
)
VALIDATION_COMMANDS = (
    "python validate_testing_framework.py --market NQ",
    "python validate_testing_framework.py --market ES --quick",
    "python validate_testing_framework.py --market YM --output logs/validation_report.json",
)
TROUBLESHOOTING_COMMANDS = (
    "python run_hardware_maximized.py --batch-size 2048 --vectorized-envs 64",
    "python run_hardware_maximized.py --batch-size 512 --vectorized-envs 16",
    "python run_hardware_maximized.py --mock-llm",
)
BENCHMARK_COMMANDS = (
    "python benchmark_framework.py --mode baseline",
    "python benchmark_framework.py --mode optimized",
    "python compare_benchmarks.py baseline.json optimized.json",
)
CI_COMMANDS = (
    "python validate_testing_framework.py --market NQ --quick",
    "python run_hardware_maximized.py --market ES --mock-llm --quick",
)
COMMANDS = (
    *HARDWARE_COMMANDS,
    *PIPELINE_COMMANDS,
    *VALIDATION_COMMANDS,
    *TROUBLESHOOTING_COMMANDS,
    *BENCHMARK_COMMANDS,
    *CI_COMMANDS,
)

HARDWARE_YAML = """
hardware:
  device: "cuda"
  vectorized_envs: 32
  batch_size: 1024
  memory_fraction: 0.95
training:
  timesteps_reduction: 0.10
  learning_rate: 3.0e-4
  n_epochs: 5
  policy_kwargs:
    net_arch:
      pi: [256, 128]
      vf: [256, 128]
performance:
  cached_llm_features: true
  vectorized_decision_fusion: true
  batched_logging: true
  environment_state_pooling: true
"""
PIPELINE_YAML = """
pipeline:
  auto_advance: true
  pause_between_phases: 5
  reallocate_resources: true
phase1:
  gpu_usage: 0.3
  estimated_duration: 300
phase2:
  gpu_usage: 0.8
  total_timesteps: 50000
phase3:
  gpu_usage: 0.9
  total_timesteps: 25000
checkpoint:
  enabled: true
  strategy: "phase_based"
  auto_resume: true
"""
TUNING_YAML = (
    "vectorized_envs: 64",
    "batch_size: 2048",
    "mixed_precision: true",
    "timesteps_reduction: 0.05",
    "net_arch:\n  pi: [128, 64]\n  vf: [128, 64]",
    "monitoring:\n  monitor_gpu: false",
)
TUNING_INLINE = ("optimize_memory: true", 'quantization: "int4"')
CI_YAML = "\n".join(f"- name: {n}\n  run: {line}" for n, line in zip(
    ("Run Framework Validation", "Run Hardware-Maximized Test"), CI_COMMANDS, strict=True
))  # fmt: skip

NET_ARCH_LISTS = ("[512, 256, 128]", "[256, 128]")

REPORT_EXAMPLE: Mapping[str, object] = {
    "test_name": "Hardware-Maximized Validation",
    "gpu_utilization": 92.5,
    "execution_time": 2847.3,
    "cache_hit_rate": 0.78,
    "peak_memory_gb": 18.2,
    "timesteps_completed": 50000,
    "validation_passed": True,
}

MENU = {
    "9": "Hardware-Maximized Test (Phase 3)",
    "10": "Pipeline Test (Phase 3)",
    "11": "Validate Testing Framework",
}
