"""Training: the loop, schedules, checkpoints, more than one process."""
