"""The kernel every other package stands on: ids, errors, clock, quantities, settings, telemetry.

Nothing here knows of HTTP, databases, Ray or models.
"""
