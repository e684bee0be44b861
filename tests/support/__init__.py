"""What tests of more than one folder share: the rules and the checker, the book, and whole installations to play on."""
