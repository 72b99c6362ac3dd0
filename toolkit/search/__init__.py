"""Values found by trying them: batch size, workers, learning rate, epochs. The learner stays as it was."""
