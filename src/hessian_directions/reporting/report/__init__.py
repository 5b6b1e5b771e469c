"""The report: one self-contained page of results that one can explore, `document.render`."""
