"""`bench report`: one HTML file with everything that stands behind a table, and its figures as PNG and PDF."""
