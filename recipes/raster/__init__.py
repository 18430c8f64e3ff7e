"""A question about a raster of any size: asked window by window, answered by polygons on the map."""
