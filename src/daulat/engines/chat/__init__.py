"""How a model speaks: its thinking switch, its reasoning, and the tool calls that it writes as text."""
