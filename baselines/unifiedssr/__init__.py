"""UnifiedSSR: settings, the windows of a sequence, and the model."""
