"""Training a Learner into a run folder: fit, checkpoints, resuming, signals."""
