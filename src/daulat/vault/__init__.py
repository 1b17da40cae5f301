"""Data at rest: sealed objects, the keys they are sealed under, and who may see them. Pure; ports for the rest."""
