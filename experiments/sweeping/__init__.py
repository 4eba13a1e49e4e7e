"""What the sweep command is made of: points, searches, the runs and where they run, tables and pictures."""
