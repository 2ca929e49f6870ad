"""Limits, exact over all replicas: admission, settling, budgets, what was used. See docs/architecture.md, Limits."""
