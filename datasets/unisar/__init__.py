"""The released data of UniSAR."""
