"""Photos -> predictions on a Ray cluster: many machines write shards of one table."""
