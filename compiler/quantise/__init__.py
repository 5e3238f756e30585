"""Calibrated quantisation: codes and scales of a checkpoint's products, chosen by what the products read (docs/quantise.md)."""
