"""The analyses of the workflow, one module per artifact: objectives in, datasets out."""
