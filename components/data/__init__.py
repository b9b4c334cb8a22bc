"""From folders of images to pixels in memory: find the splits, index them, decode them."""
