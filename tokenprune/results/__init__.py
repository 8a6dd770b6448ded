"""Files that last: folders that resume, appended lines, fingerprints of what numbers stand for."""
