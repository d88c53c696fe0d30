"""Trained weights: where they come from, what their network is given, and what it says."""
