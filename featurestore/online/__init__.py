"""The key-value contract, the value codec and the stores that implement it."""
