"""Scores of whole sets of images, whoever made the maps: all of them at once, with means and intervals."""
