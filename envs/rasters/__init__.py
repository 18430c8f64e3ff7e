"""Rasters of any size: opened without trusting them, seen in 8 bits, and read window by window."""
