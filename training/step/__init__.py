"""One training step: the model and its copy for training, fast layers, learning-rate schedules, the step itself."""
