"""Estimators of the trace of the Hessian."""
