"""The experiment's report: model, table, text, plot, and page."""
