"""Pages that a person opens: one template, one chart module, no request to anywhere."""
