"""Readers of what vendors' tools print about accelerators: pure, bounded, and unforgiving.

They trust names, not columns: widths differ between releases. What is malformed is an error that quotes its line.
"""
