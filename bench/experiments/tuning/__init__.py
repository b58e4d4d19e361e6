"""Search of settings with Ray Tune: equal budgets, validation rows only, resumable."""
