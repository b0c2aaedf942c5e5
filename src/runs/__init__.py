"""How a run proceeds: the hardware-maximized validation in one go, the pipeline in phases that survive a crash."""
