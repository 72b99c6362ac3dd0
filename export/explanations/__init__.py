"""Heatmaps of photos by a run's network, and the pictures and the page that show them."""
