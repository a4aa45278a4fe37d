"""Measure the quality and faithfulness of a model's answers and training notes, with intervals for every figure."""
