"""A model as an HTTP service: what a request may hold, how batches form across requests, and the routes."""
