"""Derivatives of a user's program by automatic differentiation, and the referee that judges them."""
