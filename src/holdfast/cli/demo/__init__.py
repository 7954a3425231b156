"""`holdfast demo`: a crawl of the standard library's imports by four processes, killed twice, that ends complete."""
