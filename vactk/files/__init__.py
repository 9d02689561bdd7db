"""Files: atomic writes, text decoding, hashes and standard folders."""
