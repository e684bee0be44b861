"""The dashboard: Flower for the batch servers and what they run; the only code that touches Flower."""
