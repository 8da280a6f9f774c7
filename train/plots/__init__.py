"""Plots of a run, drawn at its end."""
