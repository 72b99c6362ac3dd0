"""A classifier's metrics, the statistics that compare classifiers, and the result files of a run."""
