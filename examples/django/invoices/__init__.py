"""The invoices of the shop."""
