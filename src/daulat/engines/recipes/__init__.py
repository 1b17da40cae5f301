"""Launch recipes: from a model, hardware and what is wanted of them to the whole command, for review before it runs."""
