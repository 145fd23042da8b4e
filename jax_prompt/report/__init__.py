"""Results: their rows, tables, pages and figures, beside those of the papers."""
