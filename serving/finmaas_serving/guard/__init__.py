"""Guardrails: what a policy looks for in requests and answers, and what is done with it. Pure: no socket, no clock."""
