"""Tools that every room needs and no room owns."""
