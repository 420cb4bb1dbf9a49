"""What to train for a budget, from a fit."""

from precisionlaws.planning.plan import Plan, plan

__all__ = ["Plan", "plan"]
