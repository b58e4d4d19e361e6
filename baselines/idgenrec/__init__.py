"""IDGenRec: names that a language model writes for items and users, and a language model that recommends by them."""
