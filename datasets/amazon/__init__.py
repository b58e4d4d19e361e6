"""Amazon product reviews (2014, 2018)."""
