"""Raw files to row blocks: readers, encoders, vocabularies, schemas that come with the package."""
