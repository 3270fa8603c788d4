"""Input: readers for the image formats, and discovery of the cases in SOURCE."""
