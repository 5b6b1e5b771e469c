"""Directions, slices and curvatures: what a picture of the loss shows of its Hessian."""
