"""Migrations of the invoices."""
