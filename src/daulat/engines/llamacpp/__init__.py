"""llama.cpp's dialect: which slot a request runs in, prompt prefixes shared between slots, and enforced tool calls."""
