"""Exact rewrites of a trained model for where it runs."""

from .deploy import TARGETS, deploy
from .verification import Verification, verify

__all__ = ["TARGETS", "Verification", "deploy", "verify"]
