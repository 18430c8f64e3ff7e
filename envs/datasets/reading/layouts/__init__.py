"""Layouts that several sets share."""
