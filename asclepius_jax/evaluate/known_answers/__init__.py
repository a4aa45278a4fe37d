"""Answers compared with known ones, without a judge."""
