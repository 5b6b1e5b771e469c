"""Loss curvature of image classifiers: slices, traces, extreme eigenpairs, spectra.

This file imports nothing: each stage of the workflow depends on the modules it names and on no others.
"""
