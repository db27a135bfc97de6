"""Measuring: how a score follows the truth, so far."""
