"""A page to try a model with photos: in front of the service, or as files that need none."""
