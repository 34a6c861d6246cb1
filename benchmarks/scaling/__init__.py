"""What several GPUs cost in communication, computed."""
