"""The file, its locks and its counter; the only part of Holdfast that talks to SQLite."""
