"""Sets of images of one world, whose instruction has several right answers."""
