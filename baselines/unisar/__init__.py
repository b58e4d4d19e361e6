"""UniSAR: settings and the model."""
