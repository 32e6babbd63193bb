"""Migrations, one file each, named by their number."""
