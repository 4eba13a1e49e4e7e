"""The report as one HTML page that needs no network and no library; JavaScript only filters."""
