"""Stages 2 and 3: generate notes from case reports, and instructions with answers from notes."""
