"""From stored hypotheses to tables, figures and a page."""
