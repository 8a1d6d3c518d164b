"""One module per revision; one that was released is never edited."""
