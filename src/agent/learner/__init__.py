"""The fused learner: PPO's update and rollouts with explicit gradients, on the CPU."""
