"""A data set seen by a network: its photos' features, and the near-duplicates, folds and doubtful labels they show."""
