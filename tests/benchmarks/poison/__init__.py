"""Hostile reports against the whole path, defences on and off: what reaches training, gate and live model."""
