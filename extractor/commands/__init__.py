"""The commands of `extractor`, one module each: options and help; they compute nothing."""
