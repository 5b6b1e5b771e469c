"""Claims, tables and figures from artifacts; imports no torch."""
