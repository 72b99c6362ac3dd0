"""For other people: a model without facts of this machine, folders of our own, uploads to the hub."""
