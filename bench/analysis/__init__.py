"""Analyses of finished runs: mutual information, parameter space, gradient conflict, ablation and sweep."""
