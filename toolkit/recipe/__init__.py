"""Recipes as functions of options: one signature of shared and own options, an early check, lookup by name."""
