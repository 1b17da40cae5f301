"""Daulat: a sovereign AI service that proves where, on what and under which rule every answer was computed."""

__version__ = "0.1.0"
