"""A recipe as a function of its options: one signature of the shared and its own, and their early check."""
