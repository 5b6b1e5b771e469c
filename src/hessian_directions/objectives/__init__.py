"""The loss of a network over samples: what is given, how it is evaluated, and the proof that it is right."""
