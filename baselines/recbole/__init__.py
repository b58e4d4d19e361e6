"""RecBole's sequential and general models, bridged."""
