"""Does a model fit on hardware: memory by part, layouts, what is left for the KV cache. Pure."""
