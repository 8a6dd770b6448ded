"""Pictures of results: kept tokens over images, the HTML report."""
