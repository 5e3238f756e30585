"""Thresholds that mask input channels, found on what the reference engine shows the products, skipping switched on."""
