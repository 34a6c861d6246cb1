"""Reading and writing of pictures and films, for all commands and methods."""
