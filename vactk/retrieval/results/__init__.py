"""Search results as pictures, clips and files."""
