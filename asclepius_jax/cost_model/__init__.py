"""Memory and speed of a training step from shapes, and the devices that they are for."""
