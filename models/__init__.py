"""GenSR, the model of the paper."""
