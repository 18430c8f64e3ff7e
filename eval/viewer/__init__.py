"""Leafing through rollouts on a page: which ones, their data in compact pieces, and the pictures."""
