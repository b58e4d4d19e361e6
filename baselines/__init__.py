"""The baselines: one file a model."""
