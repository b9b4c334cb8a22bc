"""The training image: stages that turn a folder of labelled images into a bundle, and the clients that launch them."""
