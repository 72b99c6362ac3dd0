"""Values found by trying them: batch size, number of workers, learning rate. The learner stays as it was."""
