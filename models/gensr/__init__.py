"""GenSR: settings, prompts, token ids, the two views, their contrast, the reader (T5) and the model."""
