"""Decoding with per-token skipping on a GPU, measured: an opponent at the level of the best public stacks.

``python -m sim.baselines.gpu --shape llama-2-7b`` needs PyTorch, NumPy and PyYAML; Triton where there is a GPU.
"""
