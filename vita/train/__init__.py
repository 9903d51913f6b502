"""Training: the training loop, losses, optimizers, schedules and checkpoints."""
