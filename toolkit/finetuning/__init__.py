"""Techniques for short fine-tuning: linear probe, layer-wise decay, larger photos, weight averages, time budget."""
