"""The library of learning: loop, observers, checkpoint, metrics, export."""
